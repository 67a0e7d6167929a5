"""Policies: what is expected of which Job, read from one TOML text into frozen values.

A policy is matched by target, label or name glob; the first that matches wins and inherits what it does not
say from [defaults]. Every duration has its unit in its name. The shipped text is sf_healer/policy.toml.
"""

import math
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import chain, islice
from typing import TypeVar

import msgspec

from sf_healer.core.facts import JobFact
from sf_healer.core.rollouts import DuringRollout
from sf_healer.core.toml_text import Place, line_of, read_table, unknown

T = TypeVar("T", bound=msgspec.Struct)

ANSWERS_KEPT = 100_000
#: More attempts than this are not remembered of a Job (core/admission.py).
MOST_ATTEMPTS = 8
#: Last-seen is counted in milliseconds, as Kafka's timestamps are: no checkpoint is shorter than one.
_SHORTEST_CHECKPOINT_SECONDS = 0.001
#: The shipped text has 1,300 characters. Made to, longer ones, or longer lines, take a parser of TOML minutes.
LONGEST_TEXT = 65_536
_LONGEST_LINE = 4_096
#: Of a text that is no policy at all a person reads no more, and each is looked for in all of the text.
_MOST_FAULTS = 50
#: 31 years. What is beyond a few powers of ten more cannot be calculated with: a sum of two is infinite.
LARGEST_NUMBER = 1e9
#: What the Jobs that no policy matches are said to go by.
DEFAULT = "default"


class PolicyError(ValueError):
    """A policy text that cannot be used; each fault says on which line and what is wrong, the message the first."""

    def __init__(self, first: str, *others: str) -> None:
        super().__init__(f"{first} (and {len(others)} more)" if others else first)
        self.faults = (first, *others)


class Expectations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be said of Jobs in [defaults]; None in a policy means: as in [defaults]."""

    reporting: bool | None = None
    consumer: bool | None = None
    judge_silence: bool | None = None
    exempt: bool | None = None
    silence_threshold_seconds: float | None = None
    startup_threshold_seconds: float | None = None
    not_running_threshold_seconds: float | None = None
    error_grace_seconds: float | None = None
    stop_hold_seconds: float | None = None
    stall_threshold_seconds: float | None = None
    attempts: int | None = None
    learn_cadence: bool | None = None
    learn_floor_seconds: float | None = None
    learn_ceiling_seconds: float | None = None


class Match(msgspec.Struct, frozen=True):
    """Which Jobs a policy is for: one of the targets, one of the name globs, all of the labels; empty: any."""

    targets: tuple[str, ...]
    names: tuple[str, ...]
    labels: dict[str, str]


class _Rule(Expectations, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    targets: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    labels: dict[str, str] = {}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The safety valve's numbers, [admission] in the policy text; durations in seconds.

    They are on the actuator's log too (steps.LimitsChanged), where an older worker passes over what it does not know.

    Sources: Cluster API's maxUnhealthy and maxInFlight, the Job controller's back-off (10 s, doubling,
    6 min), KubeadmControlPlane's remediation retry (minHealthyPeriod 1 h); see docs/decisions/0006.
    """

    attempts: int = 3
    attempts_window_seconds: float = 3600.0
    healthy_period_seconds: float = 3600.0
    backoff_seconds: float = 10.0
    backoff_limit_seconds: float = 360.0
    storm_share: float = 0.4
    storm_jobs: int = 2
    storm_window_seconds: float = 600.0
    storm_canary_after_seconds: float = 600.0
    rate_per_minute: float = 6.0
    rate_burst: int = 3
    in_flight: int = 8
    counts_stale_after_seconds: float = 30.0
    command_expires_seconds: float = 60.0
    outcome_deadline_seconds: float = 120.0
    pod_deadline_seconds: float = 60.0
    delete_deadline_seconds: float = 300.0
    create_deadline_seconds: float = 900.0
    refused_retry_seconds: float = 30.0
    idle_look_seconds: float = 15.0
    idle_unknown_acts: bool | None = None
    platform_rollout: DuringRollout = DuringRollout.HOLD


class _Admission(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[admission] as a person writes it: a word that is misspelt is refused."""


class _Text(msgspec.Struct, frozen=True, kw_only=True):
    """A text that was read, as far as it could be."""

    defaults: Expectations = Expectations()
    admission: _Admission = _Admission()
    policy: tuple[tuple[int, _Rule], ...] = ()  # each with its number in the text


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected of one Job; durations in seconds.

    - `reporting`: the target is declared to send `loading`, so never starting is a fault.
    - `consumer`: it reports one `error` per bad record and goes on.
    - `grace_is_silence_threshold`: its error grace was not said and is its silence threshold, learned or not.
    - `judge_silence` false: only errors and the Job's own failure count.
    - `exempt`: never judged at all.
    - `stall_threshold_seconds`: `loading` that brings no new `records_written` for longer is no progress; 0: off.
    - `attempts`: restarts before quarantine; None: as [admission] says.
    - `learn_cadence`: the silence threshold is learned from the Job itself (core/cadence.py), between two bounds.
    """

    name: str
    reporting: bool = False
    consumer: bool = False
    judge_silence: bool = True
    exempt: bool = False
    silence_threshold_seconds: float = 300.0
    startup_threshold_seconds: float = 600.0
    not_running_threshold_seconds: float = 600.0
    error_grace_seconds: float = 60.0
    grace_is_silence_threshold: bool = False
    stop_hold_seconds: float = 120.0
    stall_threshold_seconds: float = 0.0
    attempts: int | None = None
    learn_cadence: bool = False
    learn_floor_seconds: float = 60.0
    learn_ceiling_seconds: float = 1800.0


class PolicyBook:
    """All policies of one text; answers for any Job, remembering the answer for as long as its fact holds."""

    def __init__(self, rules: tuple[_Rule, ...], defaults: Expectations, limits: Limits) -> None:
        self.limits = limits
        self._parts = (rules, defaults)
        self._default = _policy(DEFAULT, defaults, Expectations())
        self._rules = tuple((rule, _policy(rule.name, rule, defaults)) for rule in rules)
        self._answers: dict[str, tuple[JobFact, Policy]] = {}
        self._by_target_alone = not any(rule.names or rule.labels for rule in rules)
        self._answer_of_target: dict[str, Policy] = {}

    def policies(self) -> tuple[Policy, ...]:
        """All policies in the order they are tried, the default last."""
        return (*(policy for _, policy in self._rules), self._default)

    def match_of(self, policy: Policy) -> Match | None:
        """Say which Jobs a policy of this book is for; None: it is the default."""
        rules = (rule for rule, known in self._rules if known is policy)
        return next((Match(rule.targets, rule.names, rule.labels) for rule in rules), None)

    def with_silence_threshold(self, seconds: float) -> "PolicyBook":
        """Give the same policies, each with this silence threshold and none learned: a question to a replay only."""
        rules, defaults = self._parts
        said = {"silence_threshold_seconds": seconds, "learn_cadence": False}
        changed = tuple(msgspec.structs.replace(rule, **said) for rule in rules)
        return PolicyBook(changed, msgspec.structs.replace(defaults, **said), self.limits)

    @property
    def checkpoint_seconds(self) -> float:
        """How precisely last-seen survives a restart: a tenth of the shortest threshold."""
        policies = self.policies()
        thresholds = [policy.silence_threshold_seconds for policy in policies]
        thresholds += [policy.stall_threshold_seconds for policy in policies if policy.stall_threshold_seconds]
        thresholds += [policy.learn_floor_seconds for policy in policies if policy.learn_cadence]
        return max(min(thresholds) / 10, _SHORTEST_CHECKPOINT_SECONDS)

    def for_job(self, fact: JobFact) -> Policy:
        """Return the first policy that matches the Job."""
        if self._by_target_alone:  # there are few targets, and a million Jobs
            return self._answer_of_target.get(fact.target) or self._answer_for_target(fact)
        known = self._answers.get(fact.key)
        if known is not None and known[0] is fact:
            return known[1]
        if len(self._answers) >= ANSWERS_KEPT:
            self._answers.clear()
        answer = self._match(fact)
        self._answers[fact.key] = (fact, answer)
        return answer

    def _answer_for_target(self, fact: JobFact) -> Policy:
        if len(self._answer_of_target) >= ANSWERS_KEPT:
            self._answer_of_target.clear()
        answer = self._answer_of_target[fact.target] = self._match(fact)
        return answer

    def _match(self, fact: JobFact) -> Policy:
        name = fact.key.rpartition("/")[2]
        for rule, policy in self._rules:
            if (
                (not rule.targets or fact.target in rule.targets)
                and (not rule.names or any(fnmatchcase(name, glob) for glob in rule.names))
                and all(fact.labels.get(label) == value for label, value in rule.labels.items())
            ):
                return policy
        return self._default


def parse(text: str) -> PolicyBook:
    """Read a policy text; raises PolicyError that says where and what."""
    _check_size(text)
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one, and so is a number of too many digits
        raise PolicyError(_not_toml(str(error), text)) from None
    except RecursionError:
        raise PolicyError("line 1: not a policy: it is nested too deeply to be read") from None
    parsed, unread = _read(document)
    faults = list(islice(chain(unread, _problems(parsed, {place for place, _ in unread})), _MOST_FAULTS))
    if faults:
        raise PolicyError(*_with_lines(faults, text))
    return PolicyBook(
        tuple(rule for _, rule in parsed.policy), parsed.defaults, Limits(**msgspec.structs.asdict(parsed.admission))
    )


def line_of_policy(place: int, text: str) -> int:
    """Find the line where a policy of a text begins; places count from 0."""
    return line_of(Place("policy", place), text)


def fault_of(limits: Limits) -> str | None:
    """Say what is wrong with the numbers of a safety valve, wherever they come from; None where nothing is."""
    return next((problem for _, problem in _wrong_limits(limits)), None)


def _check_size(text: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise PolicyError(f"line 1: not a policy: {len(text):,} characters, at most {LONGEST_TEXT:,} are read")
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > _LONGEST_LINE:
            raise PolicyError(f"line {number}: {len(line):,} characters, at most {_LONGEST_LINE:,} are read")


def _policy(name: str, said: Expectations, defaults: Expectations) -> Policy:
    values: dict[str, bool | float | None] = {}
    for field in Expectations.__struct_fields__:
        value = getattr(said, field)
        if value is None:
            value = getattr(defaults, field)
        if value is not None:
            values[field] = value
    if values.get("consumer") and said.error_grace_seconds is None:
        silence = values.get("silence_threshold_seconds", Policy(name=name).silence_threshold_seconds)
        values["error_grace_seconds"], values["grace_is_silence_threshold"] = silence, True
    return msgspec.convert({"name": name, **values}, Policy)


# ---- errors and where they are


_Fault = tuple[Place, str]


def _read(document: Mapping[str, object]) -> tuple[_Text, list[_Fault]]:
    """Read each table on its own: what could be read of it, and what could not."""
    tables = _Text.__struct_fields__
    faults = [(Place(name), unknown(name, list(tables), what="table")) for name in document if name not in tables]
    defaults = _table(document.get("defaults", {}), Expectations, Place("defaults"), "defaults", faults)
    limits = _table(document.get("admission", {}), _Admission, Place("admission"), "admission", faults)
    rules = document.get("policy", [])
    if not isinstance(rules, list):
        faults.append((Place("policy"), "policy must be a list of tables: [[policy]]"))
        rules = []
    read: list[tuple[int, _Rule]] = []
    for number, table in enumerate(rules):
        named = table.get("name") if isinstance(table, dict) else None
        owner = f"policy {named!r}" if isinstance(named, str) else f"policy number {number + 1}"
        rule = _table(table, _Rule, Place("policy", number), owner, faults)
        read += [] if rule is None else [(number, rule)]
    return _Text(defaults=defaults or Expectations(), admission=limits or _Admission(), policy=tuple(read)), faults


def _table(table: object, type_: type[T], place: Place, owner: str, faults: list[_Fault]) -> T | None:
    if not isinstance(table, dict):
        faults.append((place, f"{owner} must be a table: [{place.table}]"))
        return None
    value, found = read_table(table, type_)
    faults += [
        (place._replace(key=key), f"{owner}: {problem}" if key else f"{owner} {problem}") for key, problem in found
    ]
    return value


def _with_lines(faults: Iterable[_Fault], text: str) -> list[str]:
    placed = sorted(((line_of(place, text), problem) for place, problem in faults), key=lambda each: each[0])
    return [f"line {number}: {problem}" for number, problem in placed]


def _problems(parsed: _Text, unread: Collection[Place]) -> Iterator[_Fault]:
    """Give what the types alone cannot refuse; where one number is wrong, what compares it with others says nothing."""
    partly = {place._replace(key="") for place in unread}
    in_defaults = list(_wrong_numbers(parsed.defaults, Place("defaults"), "defaults"))
    yield from in_defaults
    defaults_hold = not in_defaults and Place("defaults") not in partly
    if defaults_hold:
        yield from _wrong_bounds(_policy(DEFAULT, parsed.defaults, Expectations()), Place("defaults"), "defaults")
    seen: set[str] = set()
    for number, rule in parsed.policy:
        place, owner = Place("policy", number), f"policy {rule.name!r}"
        if rule.name in seen:
            yield place._replace(key="name"), f"two policies are named {rule.name!r}"
        elif rule.name in {"", DEFAULT}:
            yield (
                place._replace(key="name"),
                f"{owner}: give it a name, other than {DEFAULT!r}: so is called what the others do not match",
            )
        seen.add(rule.name)
        wrong = list(_wrong_numbers(rule, place, owner))
        yield from wrong
        if place not in partly:
            if not (rule.targets or rule.names or rule.labels):
                yield place, f"{owner} matches nothing: give targets, names or labels"
            if defaults_hold and not wrong:
                yield from _wrong_bounds(_policy(rule.name, rule, parsed.defaults), place, owner)
    if Place("admission") in partly:
        yield from _wrong_numbers(parsed.admission, Place("admission"), "admission")
    else:
        yield from _wrong_limits(parsed.admission)
    if parsed.admission.storm_share > 1:  # limits that are on the log are taken all the same: older ones may say so
        yield Place("admission", key="storm_share"), "admission: storm_share is more than 1, which is all Jobs"


def _wrong_bounds(bounds: Policy, place: Place, owner: str) -> Iterator[_Fault]:
    if bounds.learn_floor_seconds > bounds.learn_ceiling_seconds:
        problem = f"{owner}: learn_floor_seconds is more than learn_ceiling_seconds"
        yield place._replace(key="learn_floor_seconds"), problem


def _wrong_limits(limits: Limits) -> Iterator[_Fault]:
    wrong = list(_wrong_numbers(limits, Place("admission"), "admission"))
    yield from wrong
    if not wrong and limits.idle_look_seconds >= limits.command_expires_seconds:
        problem = "admission: idle_look_seconds is not less than command_expires_seconds: no command lives that long"
        yield Place("admission", key="idle_look_seconds"), problem


def _wrong_numbers(values: Expectations | Limits, place: Place, owner: str) -> Iterator[tuple[Place, str]]:
    for field in values.__struct_fields__:
        value = getattr(values, field)
        if not isinstance(value, int | float):
            continue
        at = place._replace(key=field)
        if isinstance(value, float) and not math.isfinite(value):  # an int may be too long to be looked at as one
            yield at, f"{owner}: {field} is not a finite number"
        elif value < 0:
            yield at, f"{owner}: {field} is negative"
        elif value > LARGEST_NUMBER:
            yield at, f"{owner}: {field} is more than {LARGEST_NUMBER:,.0f}"
        elif value == 0 and field in _NEVER_ZERO:
            yield at, f"{owner}: {field} is 0: every Job would be sick"
        elif field == "attempts" and not 1 <= value <= MOST_ATTEMPTS:
            yield at, f"{owner}: attempts is not 1 to {MOST_ATTEMPTS} (exempt = true leaves a Job alone)"


_NEVER_ZERO = frozenset(
    {"silence_threshold_seconds", "startup_threshold_seconds", "learn_floor_seconds", "learn_ceiling_seconds"}
)


def _not_toml(error: str, text: str) -> str:
    found = re.search(r"at line (\d+)", error)
    number = int(found[1]) if found else len(text.rstrip("\n").split("\n"))  # "at end of document"
    return f"line {number}: not TOML: {error}"
