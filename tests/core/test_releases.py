"""What an earlier release left is read and judged as it was; what a later one left is refused, told, and kept.

tests/core/releases.py wrote the fixtures, each with the code of its release.
"""

import json
from pathlib import Path

import msgspec
import pytest

import sf_healer
from agents.journal import copy_of_command, copy_of_pause
from sf_healer.core import changelog, commands, evidence, steps
from sf_healer.core.actuator import LEDGER_KEY, Actuator, decode_job_record, decode_ledger
from sf_healer.core.changelog import UnknownVersion
from sf_healer.core.commands import Pause, Unreadable, Withdraw
from sf_healer.core.evidence import UnknownSchema
from sf_healer.core.policy import Limits, parse
from sf_healer.core.remembered import remembered
from tests.core import releases

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.json"))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem)
def left(request):
    """Give what a release left."""
    return json.loads(request.param.read_text())


def table_of(stored):
    return {releases.octets(key): releases.octets(value) for key, value in stored.items()}


def is_part_of(old, new):
    """Say whether all that was said is still said; a later release may say more."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and is_part_of(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) <= len(new) and all(map(is_part_of, old, new))
    return old == new


def test_this_release_or_the_one_before_has_a_fixture():
    versions = {json.loads(path.read_text())["release"] for path in FIXTURES}
    assert versions == {path.stem for path in FIXTURES}
    assert "0.1.0" in versions
    assert sf_healer.__version__ in versions, "python -m tests.core.releases > tests/core/fixtures/VERSION.json"


def test_the_jobs_of_a_release_are_read_whole(left):
    table = table_of(left["jobs"])
    for key, value in table.items():
        if key == changelog.meta_key(0):
            (read,) = [changelog.meta_of(value)]
        else:
            (read,) = map(remembered, changelog.states_of([(key, value)]))
        assert is_part_of(msgspec.msgpack.decode(value)[2], msgspec.msgpack.decode(msgspec.msgpack.encode(read)))


def test_the_jobs_of_a_release_are_judged_as_it_judged_them(left):
    rest = [(at, releases.octets(value)) for at, value in left["evidence"]]
    now = releases.judged(parse(left["policy"]), table_of(left["jobs"]), rest)
    assert is_part_of(left["judged"], json.loads(json.dumps(now)))
    assert len(now["effects"]) == len(left["judged"]["effects"])


def test_the_restarts_of_a_release_are_gone_on_with_as_it_would_have(left):
    rest = [(at, value.encode()) for at, value in left["steps"]]
    now = releases.acted(table_of(left["actions"]), left["steps_offset"], rest)
    assert is_part_of(left["acted"], json.loads(json.dumps(now)))
    assert len(now["outcomes"]) == len(left["acted"]["outcomes"])


def test_the_story_has_all_that_may_be_under_way(left):
    """A fixture that holds nothing would be read by anything."""
    verdicts = set(left["judged"]["verdicts_at_once"].values()) | set(left["judged"]["verdicts"].values())
    assert verdicts >= {"healthy", "stuck", "failed", "never_started", "idle", "mute", "completed", "stopped", "gone"}
    assert {effect["kind"] for effect in left["judged"]["effects"]} == {"restart", "withdraw"}
    assert left["acted"]["open_at_once"] == {"stf/half": "deleting"}
    assert {outcome["reason"] for outcome in left["acted"]["outcomes"]} >= {"verified", "idle", "paused", "quarantined"}
    actuator = Actuator(worker="w", limits=Limits(), observe_only=False)
    actuator.restore(table_of(left["actions"]).items())
    assert (len(actuator.ledger.held), len(actuator.ledger.pauses), len(actuator.ledger.slots)) == (1, 1, 1)


def test_a_fixture_is_what_its_code_writes():
    """The command that writes them works; of this release it tells the same story."""
    now = releases.written()
    known = json.loads((FIXTURES[-1].parent / f"{now['release']}.json").read_text())
    assert now["judged"]["verdicts"] == known["judged"]["verdicts"]
    assert now["acted"]["open_at_once"] == known["acted"]["open_at_once"]


# ---- a later release: after a rollback its records are still there

LATER = 99
WHAT_TO_DO = r"of schema version 99; this worker knows \d+: a later release wrote it. Run that one again"


def test_evidence_of_a_later_release_is_refused_and_what_to_do_is_said():
    with pytest.raises(UnknownSchema, match=WHAT_TO_DO):
        evidence.decode(msgspec.msgpack.encode([LATER, ["b", "of tomorrow"]]))


def test_jobs_of_a_later_release_are_refused_and_what_to_do_is_said(left):
    for key, value in table_of(left["jobs"]).items():
        later = msgspec.msgpack.encode([LATER, *msgspec.msgpack.decode(value)[1:]])
        with pytest.raises(UnknownVersion, match=WHAT_TO_DO):
            changelog.meta_of(later) if key == changelog.meta_key(0) else changelog.states_of([(key, later)])


def test_actions_of_a_later_release_are_refused_and_what_to_do_is_said(left):
    for key, value in table_of(left["actions"]).items():
        later = msgspec.msgpack.encode([LATER, *msgspec.msgpack.decode(value)[1:]])
        with pytest.raises(UnknownSchema, match=WHAT_TO_DO):
            (decode_ledger if key == LEDGER_KEY else decode_job_record)(later)
        actuator = Actuator(worker="w", limits=Limits(), observe_only=False)
        with pytest.raises(UnknownSchema):
            actuator.restore([(key, later)])


@pytest.mark.parametrize(
    "read",
    [commands.decode_action, commands.decode_control, commands.decode_outcome, steps.decode],
    ids=["commands", "pauses", "outcomes", "steps"],
)
def test_records_of_a_later_release_are_told_from_garbage(read):
    unreadable = read(b'{"schema_version": 99, "kind": "of tomorrow"}')
    assert isinstance(unreadable, Unreadable)
    assert unreadable.reason == "unknown_version"
    assert "schema version 99; this worker knows 1: a later release wrote it. Run that one again" in unreadable.detail


def test_a_command_or_a_pause_of_a_later_release_is_not_copied_and_not_passed_over():
    """Raised, so that the worker ends and the offset stays where it is: the later release reads it."""
    withdraw, pause = Withdraw(id="c", key="stf/a"), Pause(scope="*", reason="x")
    for copy, record in ((copy_of_command, withdraw), (lambda value: copy_of_pause(b"*", value), pause)):
        value = commands.encode(record)
        assert copy(value) == value
        with pytest.raises(UnknownSchema, match="a later release wrote it"):
            copy(value.replace(b'"schema_version":1', b'"schema_version":99'))


def test_a_kind_that_a_later_release_added_is_passed_over_by_an_earlier_one():
    """As `limits`, which 0.1.0 does not know: it goes by its own file."""
    unreadable = steps.decode(b'{"schema_version": 1, "kind": "of tomorrow"}')
    assert isinstance(unreadable, Unreadable)
    assert unreadable.reason == "unknown_kind"


def test_fields_that_a_later_release_added_are_passed_over_by_an_earlier_one(left):
    """Which is why nothing but a new meaning of what is there raises the schema version."""
    for key, value in table_of(left["jobs"]).items():
        version, offset, body = msgspec.msgpack.decode(value)
        if key == changelog.meta_key(0):
            current = msgspec.msgpack.decode(msgspec.msgpack.encode(changelog.meta_of(value)))
            later = msgspec.msgpack.encode([version, offset, [*current, "of tomorrow"]])
            assert changelog.meta_of(later) == changelog.meta_of(value)
        else:
            later = msgspec.msgpack.encode([version, offset, {**body, "of tomorrow": 1}])
            assert changelog.states_of([(key, later)]) == changelog.states_of([(key, value)])
    for key, value in table_of(left["actions"]).items():
        read = decode_ledger if key == LEDGER_KEY else decode_job_record
        current = msgspec.msgpack.encode(read(value))  # with all fields that this release has
        assert read(msgspec.msgpack.encode([*msgspec.msgpack.decode(current), "of tomorrow"])) == read(value)
