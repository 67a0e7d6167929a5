"""What is expected of which Job, and errors in a policy text that say on which line they are."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core import policy
from sf_healer.core.policy import Limits, Policy, PolicyError, fault_of, parse
from tests.core.strategies import a_fact

SHIPPED = Path(policy.__file__).parent.parent / "policy.toml"


def a_text(rule):
    return f'[[policy]]\nname = "rule"\n{rule}\n'


# ---- which policy


def test_an_empty_text_expects_the_defaults_of_every_job():
    book = parse("")
    assert book.for_job(a_fact()) == Policy(name="default")
    assert book.limits == Limits()


def test_the_first_policy_that_matches_wins_and_inherits_what_it_does_not_say():
    book = parse(
        """
        [defaults]
        silence_threshold_seconds = 100
        startup_threshold_seconds = 200
        [[policy]]
        name = "first"
        targets = ["loader"]
        silence_threshold_seconds = 7
        [[policy]]
        name = "second"
        targets = ["loader"]
        silence_threshold_seconds = 8
        """
    )
    assert book.for_job(a_fact()) == Policy(
        name="first", silence_threshold_seconds=7.0, startup_threshold_seconds=200.0
    )


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ('targets = ["loader", "other"]', True),
        ('targets = ["load*"]', False),  # a target is a name, only names are globs
        ('names = ["loader-*-loader-producer"]', True),
        ('names = ["stf/*"]', False),  # the name, not the key
        ('names = ["LOADER-*"]', False),
        ('labels = {team = "data"}', True),
        ('labels = {team = "data", tier = "2"}', False),
        ('labels = {team = "web"}', False),
        ('targets = ["loader"]\nlabels = {team = "web"}', False),
        ('targets = ["loader"]\nnames = ["loader-*"]\nlabels = {team = "data"}', True),
    ],
)
def test_a_policy_matches_when_target_name_and_labels_all_do(rule, matches):
    fact = a_fact(labels={"team": "data", "other": "x"})
    assert (parse(a_text(rule)).for_job(fact).name == "rule") is matches


def test_a_job_that_gets_a_label_gets_the_policy_of_that_label():
    book = parse(a_text('labels = {healing = "off"}\nexempt = true'))
    assert not book.for_job(a_fact()).exempt
    assert book.for_job(a_fact(labels={"healing": "off"})).exempt
    assert not book.for_job(a_fact(labels={"healing": "on"})).exempt


def test_a_job_made_again_under_its_name_with_another_target_gets_the_policy_of_that_target():
    book = parse(a_text('targets = ["visualizer"]\njudge_silence = false'))
    assert book.for_job(a_fact(uid="u1")).judge_silence
    assert not book.for_job(a_fact(uid="u2", target="visualizer")).judge_silence


def test_the_answers_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(policy, "ANSWERS_KEPT", 3)
    book = parse(a_text('names = ["other-*"]'))
    for number in range(10):
        assert book.for_job(a_fact(f"stf/job-{number}")).name == "default"
    assert 0 < len(book._answers) <= 3


def test_the_error_grace_of_a_consumer_is_its_silence_threshold():
    text = a_text('targets = ["loader"]\nconsumer = true')
    assert parse(text).for_job(a_fact()).error_grace_seconds == 300.0
    book = parse("[defaults]\nsilence_threshold_seconds = 90\n" + text)
    assert book.for_job(a_fact()).error_grace_seconds == 90.0


def test_a_consumer_with_a_grace_of_its_own_keeps_it():
    book = parse(a_text('targets = ["loader"]\nconsumer = true\nerror_grace_seconds = 0'))
    assert book.for_job(a_fact()).error_grace_seconds == 0.0
    assert not book.for_job(a_fact()).grace_is_silence_threshold


def test_another_silence_threshold_for_all_holds_where_a_policy_learns_too():
    text = a_text('targets = ["loader"]\nconsumer = true\nlearn_cadence = true\nlearn_floor_seconds = 600')
    book = parse("[defaults]\nlearn_cadence = true\n" + text).with_silence_threshold(120.0)
    assert [each.learn_cadence for each in book.policies()] == [False, False]
    assert [each.silence_threshold_seconds for each in book.policies()] == [120.0, 120.0]
    assert book.for_job(a_fact()).error_grace_seconds == 120.0


def test_policies_are_listed_in_the_order_they_are_tried():
    assert [each.name for each in parse(SHIPPED.read_text()).policies()] == [
        "consumers",
        "loaders",
        "trainer",
        "visualizer",
        "default",
    ]


def test_the_checkpoint_is_a_tenth_of_the_shortest_threshold():
    assert parse(SHIPPED.read_text()).checkpoint_seconds == 30.0
    text = a_text('targets = ["x"]\nsilence_threshold_seconds = 50')
    assert parse(text).checkpoint_seconds == 5.0


def test_the_checkpoint_of_a_tiny_threshold_is_still_a_millisecond():
    assert parse("[defaults]\nsilence_threshold_seconds = 0.0001").checkpoint_seconds == 0.001


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("loader-producer", {"reporting": True, "consumer": False, "error_grace_seconds": 60.0}),
        ("loader-ws", {"reporting": True, "consumer": False, "error_grace_seconds": 60.0}),
        ("arango-connector", {"reporting": True, "consumer": True, "error_grace_seconds": 300.0}),
        ("arango-orderbook", {"reporting": True, "consumer": True, "error_grace_seconds": 300.0}),
        ("graph-builder", {"reporting": True, "consumer": True, "error_grace_seconds": 300.0}),
        ("gnn-trainer", {"reporting": True, "silence_threshold_seconds": 1800.0}),
        ("visualizer", {"reporting": False, "judge_silence": False}),
        ("something-new", {"reporting": False, "judge_silence": True, "silence_threshold_seconds": 300.0}),
    ],
)
def test_the_shipped_text_expects_of_each_target_what_the_platform_does(target, expected):
    chosen = parse(SHIPPED.read_text()).for_job(a_fact(target=target))
    assert {field: getattr(chosen, field) for field in expected} == expected


def test_the_numbers_of_the_safety_valve_can_be_set():
    limits = parse("[admission]\nattempts = 5\nbackoff_seconds = 1.5").limits
    assert (limits.attempts, limits.backoff_seconds, limits.in_flight) == (5, 1.5, 8)


# ---- errors

TWO_POLICIES = """\
[defaults]
silence_threshold_seconds = 100

[[policy]]
name = "first"
targets = ["a"]
silence_threshold_seconds = 10

[[policy]]
name = "second"
targets = ["b"]
{}
"""


@pytest.mark.parametrize(
    ("line", "text", "what"),
    [
        (2, "[defaults]\nsilence_threshold_seconds = \n", "not TOML"),
        (2, "[defaults]\nsilence_threshold_seconds = '1", "not TOML"),
        (3, "[defaults]\n\n[defaults]\n", "not TOML"),
        (2, "[defaults]\nsilence_threshold = 3\n", "unknown field `silence_threshold`"),
        (2, "[defaults]\n  'silence_threshold_seconds' = 'x'\n", "must be a number, not 'x'"),
        (2, "[defaults]\nsilence_threshold_seconds = -1\n", "is negative"),
        (2, "[defaults]\nsilence_threshold_seconds = 0\n", "is 0: every Job would be sick"),
        (2, "[defaults]\nstartup_threshold_seconds = 0.0\n", "is 0: every Job would be sick"),
        (2, "[defaults]\nerror_grace_seconds = nan\n", "is not a finite number"),
        (2, "[defaults]\nerror_grace_seconds = inf\n", "is not a finite number"),
        (1, "[default]\nreporting = true\n", "unknown table `default`; did you mean defaults?"),
        (1, "defaults = 3\n", "defaults must be a table: [defaults]"),
        (1, "policy = 3\n", "policy must be a list of tables: [[policy]]"),
        (3, "# [defaults]\n[admission]\nattempts = 1.5\n", "attempts must be a whole number, not 1.5"),
        (2, "[admission]\nrate_per_minute = -0.5\n", "admission: rate_per_minute is negative"),
        (2, "[admission]\nidle_look_seconds = 60\n", "not less than command_expires_seconds"),
        (12, TWO_POLICIES.format("silence_threshold_seconds = 'x'"), "must be a number, not 'x'"),
        (12, TWO_POLICIES.format("silence_threshold_seconds = -3"), "policy 'second': silence_threshold"),
        (12, TWO_POLICIES.format("threshold = 3"), "unknown field `threshold`"),
        (12, TWO_POLICIES.format("names = 'x'"), 'names must be a list of texts: ["x"]'),
        (12, TWO_POLICIES.format("names = [1]"), "names must be a list of texts"),
        (12, TWO_POLICIES.format("labels = {a = 1}"), "labels must be a table of texts"),
        (12, TWO_POLICIES.format("[policy.labels]\na = 1"), "labels must be a table of texts"),
        (12, TWO_POLICIES.format("[[policy]]\ntargets = ['c']"), "policy number 3 has no name"),
        (13, TWO_POLICIES.format("[[policy]]\nname = 'first'\ntargets = ['c']"), "two policies are named 'first'"),
        (12, TWO_POLICIES.format("[[policy]]\nname = 'third'"), "policy 'third' matches nothing"),
    ],
)
def test_an_error_says_on_which_line_it_is_and_what_is_wrong(line, text, what):
    with pytest.raises(PolicyError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith(f"line {line}: "), message
    assert what in message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[admission]\nplatform_rollout = 'stop'", "admission: platform_rollout must be 'hold' or 'warn', not 'stop'"),
        ("[admission]\nattempts = 0x" + "f" * 4_000, "admission: attempts is more than 1,000,000,000"),
        ("[defaults]\nexempt = 0x" + "f" * 4_000, "exempt must be true or false, not a number as long as that"),
        ("[defaults]\nexempt = 1979-05-27", "exempt must be true or false, not 1979-05-27"),
        ("[defaults]\nattempts = [1]", "attempts must be a whole number, not a list"),
        ("[defaults]\nattempts = true", "attempts must be a whole number, not true"),
    ],
)
def test_what_a_value_must_be_is_said_in_words(text, what):
    with pytest.raises(PolicyError, match=r"^line 2: ") as caught:
        parse(text)
    assert what in str(caught.value)


def test_a_policy_that_is_one_table_instead_of_one_of_a_list_is_told_how_to_be_written():
    with pytest.raises(PolicyError, match=r"^line 1: policy must be a list of tables: \[\[policy\]\]$"):
        parse("[policy]\nname = 'a'\n")


def test_what_cannot_be_told_for_another_fault_is_not_told():
    """A table with a misspelt `targets` matches nothing only because of that."""
    with pytest.raises(PolicyError) as caught:
        parse("[[policy]]\nname = 'a'\ntarget = ['loader']\n")
    assert caught.value.faults == ("line 3: policy 'a': unknown field `target`; did you mean targets?",)


def test_an_error_in_an_inline_table_is_found_by_the_word():
    with pytest.raises(PolicyError, match=r"^line 2: "):
        parse("# numbers\ndefaults = {silence_threshold_seconds = -1}\n")


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_a_policy_or_an_error_with_a_line(text):
    problem = "line "
    try:
        parse(text)
    except PolicyError as error:
        problem = str(error)
    assert problem.startswith("line ")


@given(st.sampled_from(sorted(Limits.__struct_fields__)), st.sampled_from(["'x'", "-1", "nan", "[]", "1 2"]))
def test_no_wrong_number_of_the_safety_valve_is_taken(field, wrong):
    with pytest.raises(PolicyError, match=r"^line 2: "):
        parse(f"[admission]\n{field} = {wrong}")


# ---- progress and attempts


def test_progress_and_attempts_are_asked_for_policy_by_policy():
    book = parse(
        a_text('targets = ["loader"]\nstall_threshold_seconds = 20\nattempts = 5')
        + "[defaults]\nstall_threshold_seconds = 900\n"
    )
    assert (book.for_job(a_fact()).stall_threshold_seconds, book.for_job(a_fact()).attempts) == (20.0, 5)
    other = book.for_job(a_fact(uid="u2", target="other"))
    assert (other.stall_threshold_seconds, other.attempts) == (900.0, None)
    assert Policy(name="x").stall_threshold_seconds == 0.0
    assert book.checkpoint_seconds == 2.0


@pytest.mark.parametrize("attempts", [0, 9])
def test_attempts_that_would_never_or_always_be_over_are_refused(attempts):
    with pytest.raises(PolicyError, match=r"line 4: .*attempts is not 1 to 8"):
        parse(a_text(f'targets = ["loader"]\nattempts = {attempts}'))
    with pytest.raises(PolicyError, match=r"line 2: admission: attempts is not 1 to 8"):
        parse(f"[admission]\nattempts = {attempts}\n")


def test_bounds_of_a_learned_cadence_that_contradict_each_other_are_refused():
    rule = 'targets = ["loader"]\nlearn_cadence = true\nlearn_ceiling_seconds = 30'
    with pytest.raises(PolicyError, match=r"line 1: .*learn_floor_seconds is more than learn_ceiling_seconds"):
        parse(a_text(rule))
    with pytest.raises(PolicyError, match=r"line 4: .*learn_floor_seconds is 0"):
        parse(a_text('targets = ["loader"]\nlearn_floor_seconds = 0'))


def test_bounds_of_the_defaults_that_contradict_each_other_are_refused_where_they_stand():
    with pytest.raises(PolicyError, match=r"line 3: defaults: learn_floor_seconds is more than learn_ceiling_seconds"):
        parse("[defaults]\nlearn_cadence = true\nlearn_floor_seconds = 100\nlearn_ceiling_seconds = 50")


@pytest.mark.parametrize("name", ["", "default"])
def test_a_policy_has_a_name_of_its_own(name):
    with pytest.raises(PolicyError, match=rf"^line 2: policy '{name}': give it a name, other than 'default'"):
        parse(f'[[policy]]\nname = "{name}"\ntargets = ["loader"]')


def test_a_share_above_all_jobs_is_refused_in_a_text_and_taken_from_a_log():
    with pytest.raises(PolicyError, match=r"line 2: admission: storm_share is more than 1"):
        parse("[admission]\nstorm_share = 40")
    assert parse("[admission]\nstorm_share = 1").limits.storm_share == 1
    assert fault_of(Limits(storm_share=40.0)) is None


def test_a_book_that_asks_for_targets_alone_answers_by_target_and_remembers_a_bounded_number(monkeypatch):
    monkeypatch.setattr(policy, "ANSWERS_KEPT", 3)
    book = policy.parse('[[policy]]\nname = "loaders"\ntargets = ["loader"]')
    answers = {target: book.for_job(a_fact(target=target)).name for target in ("a", "loader", "b", "c", "d")}
    assert answers == {"a": "default", "loader": "loaders", "b": "default", "c": "default", "d": "default"}
    assert book.for_job(a_fact(target="loader")).name == "loaders"
    assert len(book._answer_of_target) <= 3


# ---- what nobody could calculate with


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x = " + "[" * 2_000, "nested too deeply"),
        ("x = " + "{a=" * 1_000, "nested too deeply"),
        ("#\n" * 33_000, "66,000 characters, at most 65,536"),
        ("[defaults]\n" + "." * 5_000, "line 2: 5,000 characters, at most 4,096"),
        ("[defaults]\nsilence_threshold_seconds = 1e12", "line 2: defaults: silence_threshold_seconds is more than"),
        ("[admission]\nrate_burst = 99999999999999999999", "line 2: admission: rate_burst is more than"),
        ("[admission]\nbackoff_seconds = " + "9" * 400, "line 2: admission: backoff_seconds: Number out of range"),
        ("[admission]\nbackoff_seconds = 1e400", "is not a finite number"),
    ],
    ids=["nested arrays", "nested tables", "long", "a long line", "far", "a large count", "digits", "infinite"],
)
def test_what_is_too_large_or_too_deep_to_be_a_policy_is_refused(text, what):
    with pytest.raises(PolicyError, match=f"^(line \\d+: .*)?{what}"):
        parse(text)


@given(st.sampled_from(sorted(Limits.__struct_fields__)), st.sampled_from([0, 1, 1e-300, 1e9]))
def test_every_number_that_is_taken_can_be_calculated_with(field, number):
    """A worker asks for its checkpoint, and admission for everything else, in any case."""
    try:
        book = parse(f"[admission]\n{field} = {number}")
    except PolicyError:
        return
    assert fault_of(book.limits) is None


def test_the_limits_are_read_from_a_log_whatever_a_later_version_adds_to_them():
    """Only a person's text is refused for a word that is not known."""
    assert msgspec.convert({"attempts": 2, "of_tomorrow": 1}, Limits) == Limits(attempts=2)
    with pytest.raises(PolicyError, match="unknown field `of_tomorrow`"):
        parse("[admission]\nof_tomorrow = 1")
