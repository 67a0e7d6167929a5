"""Policies: what is expected of which Job, read from one TOML text into frozen values.

A policy is matched by target, label or name glob; the first that matches wins and inherits what it does not
say from [defaults]. Every duration has its unit in its name. The shipped text is sf_healer/policy.toml.
"""

import tomllib
from fnmatch import fnmatchcase

import msgspec

from sf_healer.core.facts import JobFact


class PolicyError(ValueError):
    """A policy text that cannot be used; the message names the place and what is wrong."""


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


class _Rule(Expectations, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    targets: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    labels: dict[str, str] = {}


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The safety valve's numbers, [admission] in the policy text; durations in seconds.

    Sources: Cluster API's maxUnhealthy and maxInFlight, the Job controller's back-off (10 s, doubling, 6 min),
    KubeadmControlPlane's remediation retry (minHealthyPeriod 1 h); see docs/decisions/0006.
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
    idle_unknown_acts: bool = False


class _Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    defaults: Expectations = Expectations()
    admission: Limits = Limits()
    policy: tuple[_Rule, ...] = ()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected of one Job; durations in seconds.

    - `reporting`: the target is declared to send `loading`, so never starting is a fault.
    - `consumer`: it reports one `error` per bad record and goes on (error grace = its silence threshold).
    - `judge_silence` false: only errors and the Job's own failure count.
    - `exempt`: never judged at all.
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
    stop_hold_seconds: float = 120.0


class PolicyBook:
    """All policies of one text; answers for any Job, remembering the answer by what it depends on."""

    def __init__(self, rules: tuple[_Rule, ...], defaults: Expectations, limits: Limits) -> None:
        self.limits = limits
        self._default = _policy("default", defaults, Expectations())
        self._rules = tuple((rule, _policy(rule.name, rule, defaults)) for rule in rules)
        self._answers: dict[str, Policy] = {}

    def policies(self) -> tuple[Policy, ...]:
        """All policies in the order they are tried, the default last."""
        return (*(policy for _, policy in self._rules), self._default)

    @property
    def checkpoint_seconds(self) -> float:
        """A tenth of the shortest silence threshold: how precisely last-seen survives a restart (design §4)."""
        return min(policy.silence_threshold_seconds for policy in self.policies()) / 10

    def for_job(self, fact: JobFact) -> Policy:
        """Return the first policy that matches the Job."""
        answer = self._answers.get(fact.key)
        if answer is None:
            if len(self._answers) > 100_000:
                self._answers.clear()
            answer = self._answers[fact.key] = self._match(fact)
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
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"not TOML: {error}") from None
    try:
        parsed = msgspec.convert(document, _Text)
    except msgspec.ValidationError as error:
        raise PolicyError(_located(str(error), text)) from None
    _check(parsed, text)
    return PolicyBook(parsed.policy, parsed.defaults, parsed.admission)


def _policy(name: str, said: Expectations, defaults: Expectations) -> Policy:
    values: dict[str, bool | float] = {}
    for field in Expectations.__struct_fields__:
        value = getattr(said, field)
        if value is None:
            value = getattr(defaults, field)
        if value is not None:
            values[field] = value
    if values.get("consumer") and said.error_grace_seconds is None:
        silence = values.get("silence_threshold_seconds", Policy(name=name).silence_threshold_seconds)
        values["error_grace_seconds"] = silence
    return msgspec.convert({"name": name, **values}, Policy)


def _check(parsed: _Text, text: str) -> None:
    seen: set[str] = set()
    for rule in parsed.policy:
        if rule.name in seen:
            raise PolicyError(_located(f"two policies are named {rule.name!r}", text, rule.name))
        seen.add(rule.name)
        if not (rule.targets or rule.names or rule.labels):
            raise PolicyError(
                _located(f"policy {rule.name!r} matches nothing: give targets, names or labels", text, rule.name)
            )
    for owner, values in (
        ("defaults", parsed.defaults),
        ("admission", parsed.admission),
        *((f"policy {rule.name!r}", rule) for rule in parsed.policy),
    ):
        for field in values.__struct_fields__:
            value = getattr(values, field)
            if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
                raise PolicyError(_located(f"{owner}: {field} is negative", text, field))
            if field in {"silence_threshold_seconds", "startup_threshold_seconds"} and value == 0:
                raise PolicyError(_located(f"{owner}: {field} is 0: every Job would be sick", text, field))


def _located(message: str, text: str, word: str = "") -> str:
    """Put the number of the first line that holds the offending word before the message."""
    word = word or (message.split("`")[1] if message.count("`") > 1 else "").rpartition(".")[2]
    for number, line in enumerate(text.splitlines(), start=1):
        if word and word in line:
            return f"line {number}: {message}"
    return message
