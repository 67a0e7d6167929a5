"""Settings: what may be set, how a wrong one is told, and that the page about them is true."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from sf_healer.settings import (
    FIELDS,
    MASK,
    READ_ELSEWHERE,
    Identity,
    Mode,
    NotifyOn,
    Role,
    Settings,
    SettingsError,
    bootstrap_servers,
    load,
    markdown,
)

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "settings.md"
MISSPELT = {("SF_HEALER_MARK_INTERVALL_SECONDS", "tests/broker/test_worker_start.py")}  # on purpose


def refused(**environ: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load({f"SF_HEALER_{name}": value for name, value in environ.items()})
    return caught.value


def test_nothing_set_is_a_healer_that_touches_nothing():
    settings = load({})
    assert settings == Settings()
    assert (settings.mode, settings.role, settings.identity) == (Mode.OBSERVE, Role.ALL, Identity.CLUSTER)
    assert settings.web_host == "127.0.0.1"


def test_every_kind_of_value_is_read():
    settings = load(
        {
            "SF_HEALER_MODE": "heal",
            "SF_HEALER_PARTITIONS": "12",
            "SF_HEALER_MARK_INTERVAL_SECONDS": "0.5",
            "SF_HEALER_DEMO_ACCEPT_CREATE_TIME": "true",
            "SF_HEALER_REPLICATION_FACTOR": "2",
            "SF_HEALER_DATA_DIR": " /data ",
        }
    )
    assert settings.mode is Mode.HEAL
    assert (settings.partitions, settings.mark_interval_seconds) == (12, 0.5)
    assert settings.demo_accept_create_time is True
    assert settings.replication_factor == 2
    assert settings.data_dir == "/data"


def test_the_environment_of_others_is_none_of_our_business():
    assert load({"PATH": "/bin", "HEALER_MODE": "heal", "sf_healer_mode": "heal"}) == Settings()


def test_an_empty_variable_is_not_set():
    assert load({"SF_HEALER_MODE": "", "SF_HEALER_SASL_PASSWORD": ""}) == Settings()


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("SF_HEALER_MOD", "SF_HEALER_MODE"),
        ("SF_HEALER_BROKERS_URL", "SF_HEALER_BROKER_URL"),
        ("SF_HEALER_MARK_INTERVAL", "SF_HEALER_MARK_INTERVAL_SECONDS"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_likely_one(given, suggested):
    with pytest.raises(SettingsError) as caught:
        load({given: "x"})
    assert caught.value.name == given
    assert f"did you mean {suggested}?" in str(caught.value)


def test_what_resembles_nothing_gets_no_guess():
    with pytest.raises(SettingsError, match="SF_HEALER_QQQQQQQQQQ: unknown setting; see"):
        load({"SF_HEALER_QQQQQQQQQQ": "x"})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MARK_INTERVAL_SECONDS", "5s", "'5s' is not a number of seconds"),
        ("MARK_INTERVAL_SECONDS", "nan", "'nan' is not a number of seconds"),
        ("MARK_INTERVAL_SECONDS", "inf", "'inf' is not a number of seconds"),
        ("MARK_INTERVAL_SECONDS", "0", "at least 0.05"),
        ("FEED_GAP_SECONDS", "-1", "'-1' is not a number of seconds, at least 0"),
        ("PARTITIONS", "2.5", "'2.5' is not a whole number"),
        ("PARTITIONS", "0", "at least 1"),
        ("WEB_PORT", "65535", "at most 65534"),
        ("REPLICATION_FACTOR", "none", "'none' is not a whole number"),
        ("MODE", "fix", "'fix' is not one of observe, heal"),
        ("SASL_MECHANISM", "GSSAPI", "one of SCRAM-SHA-512, SCRAM-SHA-256, PLAIN"),
        ("DEMO_ACCEPT_CREATE_TIME", "maybe", "'maybe' is not true or false"),
        ("NAMESPACE", "Not_A_Label", "not a DNS label"),
        ("SOURCE_TOPIC", "a b", "not a topic name"),
        ("BROKER_URL", "127.0.0.1:9092", "does not start with kafka://"),
        ("BROKER_URL", "kafka://", "is not host:port"),
        ("BROKER_URL", "kafka://a:1,", "is not host:port"),
        ("BROKER_URL", "kafka://a:b", "'a:b' has no valid port"),
        ("BROKER_URL", "kafka://user:word@a:1", "credentials belong into SF_HEALER_SASL_USERNAME"),
        ("WEB_ADVERTISED_URL", "healer:6066", "is not an http:// or https:// URL"),
        ("KUBECONFIG", "/nowhere/config", "is not a file"),
        ("CA_FILE", "/nowhere/ca.crt", "is not a file"),
    ],
)
def test_a_wrong_value_is_told_with_setting_and_value(name, value, said):
    problem = refused(**{name: value})
    assert problem.name == f"SF_HEALER_{name}"
    assert said in problem.message
    assert str(problem).startswith(f"SF_HEALER_{name}: ")


def test_a_wrong_url_of_the_broker_does_not_repeat_a_password():
    assert "word" not in str(refused(BROKER_URL="kafka://user:word@a:1"))


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"SASL_USERNAME": "u"}, "SASL_PASSWORD"),
        ({"SASL_PASSWORD": "p"}, "SASL_USERNAME"),
        ({"FEED_GAP_SECONDS": "2"}, "FEED_GAP_SECONDS"),
        ({"BROKER_HEARTBEAT_SECONDS": "20"}, "BROKER_HEARTBEAT_SECONDS"),
        ({"MODE": "heal", "IDENTITY": "convention"}, "IDENTITY"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(environ, name):
    assert refused(**environ).name == f"SF_HEALER_{name}"


def test_the_feed_gap_follows_the_marks_unless_it_is_set():
    assert Settings().feed_gap_seconds == 10.0
    assert load({"SF_HEALER_MARK_INTERVAL_SECONDS": "5"}).feed_gap_seconds == 20.0
    assert load({"SF_HEALER_FEED_GAP_SECONDS": "60"}).feed_gap_seconds == 60.0


def test_a_policy_file_is_taken_also_one_that_is_gone_for_who_asks_a_worker_why_does_not_read_it():
    assert load({"SF_HEALER_POLICY_FILE": "/nowhere/policy.toml"}).policy_file == "/nowhere/policy.toml"


def test_no_text_of_a_variable_means_that_it_is_absent():
    # A lax converter takes "null" for None where None is allowed: a password may well be called that.
    settings = load({"SF_HEALER_SASL_USERNAME": "null", "SF_HEALER_SASL_PASSWORD": "null"})
    assert (settings.sasl_username, settings.sasl_password) == ("null", "null")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SF_HEALER_SERVICE_HOST", "10.0.0.1"),
        ("SF_HEALER_SERVICE_PORT", "6066"),
        ("SF_HEALER_SERVICE_PORT_HTTP", "6066"),
        ("SF_HEALER_PORT", "tcp://10.0.0.1:6066"),
        ("SF_HEALER_PORT_6066_TCP", "tcp://10.0.0.1:6066"),
        ("SF_HEALER_PORT_6066_TCP_PROTO", "tcp"),
        ("SF_HEALER_DETECTOR_PORT_6066_TCP_ADDR", "10.0.0.1"),
        ("SF_HEALER_DETECTOR_SERVICE_HOST", "10.0.0.1"),
        ("SF_HEALER_DETECTOR_PORT", "tcp://10.0.0.1:6066"),
    ],
)
def test_what_kubernetes_adds_for_a_service_of_our_name_is_no_setting(name, value):
    assert load({name: value}) == Settings()


def test_a_service_that_overwrites_a_setting_is_told():
    said = refused(WEB_PORT="tcp://10.0.0.1:80").message
    assert "enableServiceLinks: false" in said


def test_a_port_setting_misspelt_is_no_service():
    assert "SF_HEALER_WEB_PORT" in refused(WEP_PORT="6066").message


def test_secrets_are_never_shown():
    settings = load({"SF_HEALER_SASL_USERNAME": "healer", "SF_HEALER_SASL_PASSWORD": "hunter2"})
    assert settings.shown()["SF_HEALER_SASL_PASSWORD"] == MASK
    assert settings.shown()["SF_HEALER_SASL_USERNAME"] == "healer"
    assert Settings().shown()["SF_HEALER_SASL_PASSWORD"] is None
    assert "hunter2" not in repr(settings) + str(settings) + f"{settings}"
    assert "hunter2" not in pretty_repr(settings), "rich draws tracebacks with it"
    assert sorted(settings.shown()) == sorted(field.name for field in FIELDS)


@pytest.mark.parametrize("url", ["healer:hunter2@k:9092", "kafka://healer:hunter2@k:9092", "kafka://a:hunter2@k:none"])
def test_a_password_put_into_the_brokers_address_is_refused_and_not_repeated(url):
    problem = refused(BROKER_URL=url)
    assert problem.name == "SF_HEALER_BROKER_URL"
    assert "hunter2" not in str(problem)


def test_user_and_password_may_be_files(tmp_path):
    user, password = tmp_path / "user", tmp_path / "password"
    for file in (user, password):
        file.write_text("hunter2\n")
    settings = load({"SF_HEALER_SASL_USERNAME_FILE": str(user), "SF_HEALER_SASL_PASSWORD_FILE": str(password)})
    assert (settings.sasl_username, settings.sasl_password) == (None, None), "they are read when a client connects"
    assert settings.logs_in
    assert "hunter2" not in str(settings.shown())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"SASL_USERNAME": "healer"}, "SF_HEALER_SASL_PASSWORD: must be set when SASL_USERNAME is (or SASL_PASSWORD_"),
        ({"SASL_PASSWORD": "hunter2"}, "SF_HEALER_SASL_USERNAME: must be set when SASL_PASSWORD is (or SASL_USERNAME_"),
        ({"SASL_PASSWORD_FILE": "THERE"}, "SF_HEALER_SASL_USERNAME: must be set when SASL_PASSWORD"),
        ({"SASL_USERNAME_FILE": "THERE"}, "SF_HEALER_SASL_PASSWORD: must be set when SASL_USERNAME"),
        (
            {"SASL_USERNAME": "healer", "SASL_PASSWORD_FILE": "NOWHERE"},
            "SF_HEALER_SASL_PASSWORD_FILE: 'NOWHERE' is not",
        ),
        (
            {"SASL_USERNAME": "healer", "SASL_PASSWORD": "hunter2", "SASL_PASSWORD_FILE": "THERE"},
            "SF_HEALER_SASL_PASSWORD_FILE: must not be set beside SASL_PASSWORD",
        ),
        (
            {"SASL_USERNAME": "healer", "SASL_USERNAME_FILE": "THERE", "SASL_PASSWORD": "hunter2"},
            "SF_HEALER_SASL_USERNAME_FILE: must not be set beside SASL_USERNAME",
        ),
    ],
)
def test_half_a_login_or_two_of_them_are_refused(tmp_path, given, told):
    (tmp_path / "there").write_text("hunter2")
    files = {"THERE": str(tmp_path / "there")}
    problem = refused(**{name: files.get(value, value) for name, value in given.items()})
    assert str(problem).startswith(told), problem
    assert "hunter2" not in str(problem)


WEBHOOK = "https://hooks.example/services/T0/hunter2"


def test_the_url_of_a_webhook_is_a_secret():
    settings = load({"SF_HEALER_NOTIFY_URL": WEBHOOK})
    assert settings.notifies
    assert settings.shown()["SF_HEALER_NOTIFY_URL"] == MASK
    assert "hunter2" not in repr(settings) + pretty_repr(settings)
    assert not Settings().notifies


@pytest.mark.parametrize("url", ["hooks.example/hunter2", "ftp://x/hunter2", "https:///hunter2", "http://x:no/hunter2"])
def test_a_url_of_a_webhook_that_is_none_is_refused_and_not_repeated(url):
    problem = refused(NOTIFY_URL=url)
    assert str(problem) == "SF_HEALER_NOTIFY_URL: is not an http:// or https:// URL"


def test_the_url_of_a_webhook_may_be_a_file_and_not_both(tmp_path):
    file = tmp_path / "url"
    file.write_text(WEBHOOK)
    settings = load({"SF_HEALER_NOTIFY_URL_FILE": str(file)})
    assert settings.notifies
    assert "hunter2" not in str(settings.shown())
    problem = refused(NOTIFY_URL=WEBHOOK, NOTIFY_URL_FILE=str(file))
    assert str(problem) == "SF_HEALER_NOTIFY_URL_FILE: must not be set beside NOTIFY_URL"
    assert "is not a file" in refused(NOTIFY_URL_FILE=str(tmp_path / "nowhere")).message


def test_what_a_webhook_is_told_of_is_a_list_of_known_things():
    told = load({"SF_HEALER_NOTIFY_ON": "failed,storm"}).notify_kinds
    assert told == {NotifyOn.FAILED, NotifyOn.STORM}
    assert Settings().notify_kinds == set(NotifyOn) - {NotifyOn.WOULD_RESTART}
    assert (
        "'failed,success' is not a comma-separated list of restarted, failed, refused"
        in refused(NOTIFY_ON="failed,success").message
    )
    assert "a comma-separated list of" in refused(NOTIFY_ON="failed,").message
    assert "'xml' is not one of json, slack" in refused(NOTIFY_FORMAT="xml").message


def test_settings_do_not_change_once_loaded():
    with pytest.raises(AttributeError):
        Settings().mode = Mode.HEAL


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("a:1", ("a:1",)),
        ("a", ("a:9092",)),
        ("a:1, b:2", ("a:1", "b:2")),
        ("[::1]:9", ("[::1]:9",)),
        ("[::1]", ("[::1]:9092",)),
    ],
)
def test_brokers_are_host_and_port(text, servers):
    assert bootstrap_servers(text) == servers
    assert load({"SF_HEALER_BROKER_URL": f"kafka://{text}"}).bootstrap_servers == servers


def test_the_page_about_settings_is_the_code():
    assert PAGE.read_text() == markdown(), "run: sf-healer settings --markdown > docs/settings.md"


def test_every_setting_is_documented_and_names_its_unit():
    attributes = [field.name for field in msgspec.structs.fields(Settings)]
    assert [field.attribute for field in FIELDS] == attributes
    for field in FIELDS:
        assert field.description
        assert field.description.endswith("."), field.name
        if "seconds" in field.wanted:
            assert field.attribute.endswith("_seconds")


@given(
    st.dictionaries(
        st.sampled_from([field.name for field in FIELDS]) | st.from_regex(r"SF_HEALER_[A-Z_]{1,12}", fullmatch=True),
        st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=12),
        max_size=3,
    )
)
def test_whatever_is_set_loads_or_is_refused_by_name(environ):
    try:
        load(environ)
    except SettingsError as problem:
        told = problem
    else:
        return
    assert told.name.startswith("SF_HEALER_")
    assert told.message


def test_variables_of_our_prefix_that_are_read_elsewhere_are_no_settings():
    assert load({"SF_HEALER_CAPTURES": "/captures", "SF_HEALER_LAB_CACHE": "/cache"}) == load({})


def test_every_variable_of_our_prefix_that_a_test_or_a_page_names_lets_a_worker_start():
    """What the tests read has the prefix SF_LAB_: `NAME=… pytest` must not end each worker of the run."""
    known = READ_ELSEWHERE | {field.name for field in FIELDS}
    named = {
        (name, str(path.relative_to(REPOSITORY)))
        for path in _texts()
        for name in re.findall(r"\bSF_HEALER_[A-Z_]*[A-Z]\b", path.read_text())
    }
    assert len({name for name, _ in named}) > 20
    assert {(name, path) for name, path in named if name not in known} == MISSPELT


def _texts() -> Iterator[Path]:
    yield REPOSITORY / "Makefile"
    for directory in ("tests", "docs"):
        for path in (REPOSITORY / directory).rglob("*"):
            if path.suffix in {".md", ".py", ".toml", ".yaml", ".yml"} and path != Path(__file__):
                yield path
