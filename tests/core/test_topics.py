"""What every topic must be, and how one that differs is told."""

import pytest
import yaml
from click.testing import CliRunner

from sf_healer import topics
from sf_healer.app import PRODUCE_BATCH_BYTES
from sf_healer.commands.topics import command
from sf_healer.settings import Settings
from sf_healer.topics import Found, Owner, Spec, State, compare, differences, platform_specs, present, specs

DAY_MS = 24 * 60 * 60 * 1000


def by_name(settings: Settings | None = None, brokers: int = 3) -> dict[str, Spec]:
    return {spec.name: spec for spec in specs(settings or Settings(), brokers)}


def found(spec: Spec, *, partitions: int | None = None, replicas: int | None = None, **configs: str) -> Found:
    return Found(
        name=spec.name,
        partitions=partitions or spec.partitions,
        replication_factor=replicas or spec.replication_factor,
        configs={
            "segment.ms": "1",
            **spec.configs,
            **{key.replace("_", "."): value for key, value in configs.items()},
        },
    )


@pytest.mark.parametrize(
    ("name", "partitions", "cleanup", "retention_days", "append_time"),
    [
        ("sf-healer-evidence", 6, "delete", 7, True),
        ("healer-actions", 1, "delete", 7, True),
        ("sf-healer-steps", 1, "delete", 7, True),
        ("healer-outcomes", 1, "delete", 90, True),
        ("sf-healer-control", 1, "compact", None, False),
        ("sf-healer-dead-letters", 1, "delete", 30, False),
        ("sf-healer-detector-jobs-changelog", 6, "compact", None, False),
        ("sf-healer-actuator-actions-changelog", 1, "compact", None, False),
    ],
)
def test_each_topic_is_what_it_must_be(name, partitions, cleanup, retention_days, append_time):
    spec = by_name()[name]
    assert spec.partitions == partitions
    assert spec.configs["cleanup.policy"] == cleanup
    assert spec.configs.get("retention.ms") == (None if retention_days is None else str(retention_days * DAY_MS))
    assert spec.configs.get("message.timestamp.type") == ("LogAppendTime" if append_time else None)
    assert spec.owner is Owner.US


def test_each_topic_takes_the_largest_record_that_a_producer_of_ours_sends_whatever_the_brokers_are_set_to():
    for spec in by_name().values():
        assert int(spec.configs["max.message.bytes"]) == 1_048_588 > PRODUCE_BATCH_BYTES, spec.name
    assert all("max.message.bytes" not in spec.configs for spec in platform_specs(Settings(), 3))


def test_there_are_no_topics_but_these():
    assert len(by_name()) == 8


def test_only_what_follows_the_evidence_has_its_partitions():
    wide = by_name(Settings(partitions=12))
    assert {name for name, spec in wide.items() if spec.partitions == 12} == {
        topics.EVIDENCE,
        topics.JOBS_CHANGELOG,
    }


@pytest.mark.parametrize(
    ("brokers", "set_factor", "replicas", "in_sync"),
    [
        (1, None, 1, "1"),
        (2, None, 2, "1"),
        (3, None, 3, "2"),
        (9, None, 3, "2"),
        (3, 1, 1, "1"),
        (3, 2, 2, "1"),
    ],
)
def test_three_replicas_of_which_two_in_sync_where_there_are_three_brokers(brokers, set_factor, replicas, in_sync):
    for spec in specs(Settings(replication_factor=set_factor), brokers):
        assert (spec.replication_factor, spec.configs["min.insync.replicas"]) == (replicas, in_sync)


def test_a_topic_as_it_should_be_has_no_differences():
    for spec in by_name().values():
        assert differences(spec, found(spec)) == ()


def test_a_broker_that_tells_no_configs_is_taken_at_its_word():
    spec = by_name()["healer-actions"]
    assert differences(spec, Found(spec.name, 1, 3, {})) == ()


def test_more_than_asked_for_is_no_difference():
    spec = by_name()["healer-actions"]
    more = {"retention_ms": str(30 * DAY_MS), "min_insync_replicas": "3", "max_message_bytes": "9000000"}
    generous = found(spec, replicas=5, **more)
    assert differences(spec, generous) == ()
    assert differences(spec, found(spec, retention_ms="-1")) == ()
    compacted = by_name()["sf-healer-control"]
    assert differences(compacted, found(compacted, segment_bytes="1073741824")) == ()


@pytest.mark.parametrize(
    ("config", "value"),
    [
        ("message_timestamp_type", "CreateTime"),
        ("retention_ms", str(DAY_MS)),
        ("cleanup_policy", "compact"),
        ("cleanup_policy", "compact,delete"),
        ("min_insync_replicas", "1"),
        ("max_message_bytes", "300000"),
    ],
)
def test_a_wrong_config_is_told_with_the_command_that_mends_it(config, value):
    spec = by_name()["healer-actions"]
    name = config.replace("_", ".")
    (told,) = differences(spec, found(spec, **{config: value}), "k:9092")
    assert told == (
        f"has {name}={value} instead of {spec.configs[name]}; fix: kafka-configs.sh --bootstrap-server k:9092"
        f" --alter --entity-type topics --entity-name healer-actions --add-config {name}={spec.configs[name]}"
    )


def test_a_compacted_topic_that_also_deletes_would_lose_state():
    spec = by_name()[topics.JOBS_CHANGELOG]
    (told,) = differences(spec, found(spec, cleanup_policy="compact,delete"))
    assert "cleanup.policy" in told


def test_other_partitions_of_the_evidence_can_be_kept_by_a_setting():
    spec = by_name()[topics.EVIDENCE]
    (told,) = differences(spec, found(spec, partitions=3))
    assert "has 3 partitions instead of 6" in told
    assert "SF_HEALER_PARTITIONS=3" in told


def test_other_partitions_of_a_log_of_one_order_cannot():
    spec = by_name()[topics.ACTIONS]
    (told,) = differences(spec, found(spec, partitions=3), "k:9092")
    assert "SF_HEALER_PARTITIONS" not in told
    assert "kafka-topics.sh --bootstrap-server k:9092 --delete --topic healer-actions" in told


def test_too_few_replicas_are_told():
    spec = by_name()[topics.STEPS]
    (told,) = differences(spec, found(spec, replicas=1))
    assert "has 1 replicas instead of 3" in told
    assert "SF_HEALER_REPLICATION_FACTOR=1" in told


def test_all_differences_of_a_topic_are_told_together():
    spec = by_name()[topics.EVIDENCE]
    wrong = found(spec, partitions=1, replicas=1, message_timestamp_type="CreateTime")
    assert len(differences(spec, wrong)) == 3


def test_topics_compare_as_ok_missing_or_different():
    wanted = specs(Settings(), 3)
    evidence, actions, *_ = wanted
    there = {evidence.name: found(evidence), actions.name: found(actions, partitions=2)}
    states = {status.spec.name: status.state for status in compare(wanted, there)}
    assert states[evidence.name] is State.OK
    assert states[actions.name] is State.DIFFERENT
    assert states[topics.STEPS] is State.MISSING


def test_the_platforms_topics_are_only_looked_for():
    wanted = platform_specs(Settings(), 3)
    assert [spec.name for spec in wanted] == ["queue-events", "queue-control"]
    assert {spec.owner for spec in wanted} == {Owner.PLATFORM}
    there = {"queue-events": Found("queue-events", 1, 1, {"retention.ms": "1"})}
    assert [(status.state, status.differences) for status in present(wanted, there)] == [
        (State.OK, ()),
        (State.MISSING, ()),
    ]


def test_the_command_prints_every_topic_as_strimzi_takes_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SF_HEALER_PARTITIONS", "12")
    done = CliRunner().invoke(command, ["--kafka-topics"], standalone_mode=False)
    printed = {each["metadata"]["name"]: each["spec"] for each in yaml.safe_load_all(done.output) if each}
    wanted = by_name(Settings(partitions=12))
    assert printed.keys() == wanted.keys()
    for name, spec in wanted.items():
        told = {"partitions": spec.partitions, "replicas": 3, "config": spec.configs}
        assert printed[name] == told, name
