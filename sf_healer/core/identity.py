"""Which Job a report speaks of. Pure; the inventory feeds the index, the telemetry agent asks it.

Rules (docs/decisions/0002):
- The producer id names the Job: exact first, then case-insensitively if that is unique. Job names are lower
  case while ids are not, so a name alone cannot be inverted.
- Two Jobs with one producer id are told apart by the queue id; if that fails too, a sign of life counts for
  both and anything else for neither.
- A report without a producer speaks for every Job of its queue: a sign of life for all of them, an end or an
  error for none, unless the queue has one Job.
- The naming rule `<sanitized queue_id>-<sanitized target>` may only select a Job that the index holds.
- A Job that is gone is remembered for REMEMBER_GONE_SECONDS: its last words must not look like a stranger's. Where
  another Job has its producer id it stands back after LAST_WORDS_SECONDS: an end or an error would count for neither.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from enum import StrEnum
from functools import lru_cache

import msgspec

from sf_healer.core.events import Kind, Report
from sf_healer.core.facts import Condition, JobFact, PodState, gone, share_fact

REMEMBER_GONE_SECONDS = 900.0
#: A Job that was deleted may be gone before its pod, whose last words must not be taken for those of the Job in its
#: place. Kubernetes gives a pod 30 s, and what it says is read some time later.
LAST_WORDS_SECONDS = 120.0
#: Kinds that count for every Job of a queue when only the queue is named.
SIGNS_OF_LIFE = frozenset({Kind.STARTED, Kind.LOADING})
_CACHED_NAMES = 200_000
#: A creationTimestamp is one of whole seconds, so a date of ours is told by its fraction.
_DATED_AFTER_SECONDS = 0.001
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9-]")
#: What becomes of each byte of an ASCII text: a table costs a tenth of an expression.
_IN_A_NAME = bytes(_NOT_IN_A_NAME.sub("-", chr(byte).lower()).encode()[0] for byte in range(256))


class Resolved(msgspec.Struct, frozen=True):
    """The Jobs a report speaks of; `shared` when it named only a queue that holds several, or may do so."""

    keys: tuple[str, ...]
    shared: bool = False


class UnresolvedReason(StrEnum):
    """Why no Job could be named."""

    UNKNOWN_PRODUCER = "unknown_producer"
    UNKNOWN_QUEUE = "unknown_queue"


class Unresolved(msgspec.Struct, frozen=True):
    """A report of nobody we know."""

    reason: UnresolvedReason


Resolution = Resolved | Unresolved

_OF_NO_JOB = Resolved(())


def sanitize(text: str) -> str:
    """Turn a queue id or target into a part of a Job name, as the platform's launcher does."""
    if text.isascii():
        return text.encode().translate(_IN_A_NAME).decode().strip("-")
    return _NOT_IN_A_NAME.sub("-", text.lower()).strip("-")


#: Of targets, of which there are few.
_sanitized_target = lru_cache(maxsize=1_000)(sanitize)


def target_of(producer_id: str) -> str:
    """Return the target in a telemetry id `<target>__<short_id>`; empty if it has not that form."""
    target, separator, _ = producer_id.rpartition("__")
    return target if separator else ""


class JobIndex:
    """The Jobs known to this worker, by every name that a report may use.

    With `identity = cluster` it is filled from the inventory's facts.
    """

    def __init__(self) -> None:
        #: Incremented whenever a name may resolve differently.
        self.version = 0
        self._facts: dict[str, JobFact] = {}
        self._gone_at: dict[str, float] = {}
        self._silent: set[str] = set()  # of those that are gone, who has said the last words
        self._by_producer = _Holders()
        self._by_folded_producer = _Holders()
        self._by_queue = _Holders()
        self._by_folded_queue = _Holders()
        self._resolved: dict[tuple[str, str], Resolution] = {}

    def __len__(self) -> int:
        return len(self._facts)

    def facts(self) -> tuple[JobFact, ...]:
        """All Jobs in the index, those remembered as gone included."""
        return tuple(self._facts.values())

    def get(self, key: str) -> JobFact | None:
        """Return the newest fact about a Job."""
        return self._facts.get(key)

    def put(self, fact: JobFact, *, now: float) -> None:
        """Take a fact in; an older one about the same Job is ignored. `now` in epoch seconds."""
        known = self._facts.get(fact.key)
        if known is not None:
            fact = dated_after(known, fact)
            if order_of(fact) < order_of(known):
                return
        self._facts[fact.key] = share_fact(fact, sys.intern(fact.key))
        if fact.condition is Condition.GONE:
            self._gone_at.setdefault(fact.key, now)
        elif self._gone_at.pop(fact.key, None) is not None and fact.key in self._silent:
            self._silent.discard(fact.key)
            self._names_changed()
        if (None if known is None else _names_of(known)) == _names_of(fact):
            return  # the names that are kept mean what they did, whatever else has become of the Job
        if known is not None:
            self._forget_names(known)
        if fact.managed:
            for names, name in self._called(fact):
                names.add(name, fact.key)
        self._names_changed()

    def put_listed(self, fact: JobFact, version: int, *, now: float) -> None:
        """Take in a fact of a list of resourceVersion `version`: any other incarnation known from before it is gone."""
        known = self._facts.get(fact.key)
        if known is not None and known.uid != fact.uid and known.resource_version < fact.resource_version <= version:
            self.put(gone(known, known.resource_version), now=now)
        self.put(fact, now=now)

    def of_queue(self, queue_id: str) -> tuple[JobFact, ...]:
        """All Jobs of a queue by its exact id, those remembered as gone included."""
        return tuple(self._facts[key] for key in sorted(self._by_queue.get(queue_id)))

    def is_gone(self, key: str) -> bool:
        """Say whether the Job is only remembered."""
        return key in self._gone_at

    def mark_absent(
        self, listed: set[str], version: int, *, now: float, among: Iterable[JobFact] | None = None
    ) -> None:
        """Take every Job, of all or `among` some, that a list of resourceVersion `version` does not hold for gone."""
        for fact in self.facts() if among is None else among:
            if fact.key not in listed and fact.resource_version <= version:
                self.put(gone(fact, version), now=now)

    def forget_gone(self, *, now: float) -> None:
        """Drop the Jobs that have been gone for longer than REMEMBER_GONE_SECONDS; to be called every now and then.

        Those gone for longer than LAST_WORDS_SECONDS leave a name that they share to the others.
        """
        silent = [key for key, at in self._gone_at.items() if now - at > LAST_WORDS_SECONDS]
        for key in [key for key in silent if key not in self._silent]:
            self._silent.add(key)
            if len(self._by_producer.get(self._facts[key].producer_id)) > 1:
                self._names_changed()
        for key in [key for key in silent if now - self._gone_at[key] > REMEMBER_GONE_SECONDS]:
            self._forget_names(self._facts.pop(key))
            del self._gone_at[key]
            self._silent.discard(key)
            self._names_changed()

    def resolve(self, report: Report) -> Resolution:
        """Name the Job or Jobs that a report speaks of."""
        names = (report.producer, report.queue_id)
        resolution = self._resolved.get(names)
        if resolution is None:
            resolution = self._look_up(report)
            if len(self._resolved) >= _CACHED_NAMES:
                self._resolved.clear()
            self._resolved[names] = resolution
        return resolution

    def _names_changed(self) -> None:
        self._resolved.clear()
        self.version += 1

    def _look_up(self, report: Report) -> Resolution:
        if not report.producer:
            return self._by_queue_alone(report.queue_id)
        keys = self._by_producer.get(report.producer) or self._by_unique_fold(report.producer)
        if not keys:
            return self._by_convention(report)
        if len(keys) > 1:
            keys = keys - self._silent or keys
            keys = keys & self._queue(report.queue_id) or keys
        return Resolved(tuple(sorted(keys)), shared=len(keys) > 1)

    def _by_unique_fold(self, producer: str) -> AbstractSet[str]:
        keys = self._by_folded_producer.get(producer.lower())
        return keys if len({self._facts[key].producer_id for key in keys}) == 1 else _NOBODY

    def _by_convention(self, report: Report) -> Resolution:
        name = f"{sanitize(report.queue_id)}-{sanitize(target_of(report.producer))}"
        keys = tuple(key for key in self._queue(report.queue_id) if key.rpartition("/")[2] == name)
        if len(keys) == 1:
            return Resolved(keys)
        return Unresolved(UnresolvedReason.UNKNOWN_PRODUCER)

    def _by_queue_alone(self, queue_id: str) -> Resolution:
        keys = tuple(sorted(self._queue(queue_id)))
        if not keys:
            return Unresolved(UnresolvedReason.UNKNOWN_QUEUE)
        return Resolved(keys, shared=len(keys) > 1)

    def _queue(self, queue_id: str) -> AbstractSet[str]:
        if not queue_id:
            return _NOBODY
        keys = self._by_queue.get(queue_id)
        if keys:
            return keys
        keys = self._by_folded_queue.get(queue_id.lower())
        return keys if len({self._facts[key].queue_id for key in keys}) == 1 else _NOBODY

    def _forget_names(self, fact: JobFact) -> None:
        for names, name in self._called(fact):
            names.discard(name, fact.key)

    def _called(self, fact: JobFact) -> Iterator[tuple["_Holders", str]]:
        for name, exactly, folded in (
            (fact.producer_id, self._by_producer, self._by_folded_producer),
            (fact.queue_id, self._by_queue, self._by_folded_queue),
        ):
            lower = name.lower()
            yield exactly, name
            yield folded, name if lower == name else lower


class _Holders:
    """Which Jobs are called by a name: nearly always one, and a set for each would be most of an index of all Jobs."""

    def __init__(self) -> None:
        self._keys: dict[str, str | set[str]] = {}

    def get(self, name: str) -> AbstractSet[str]:
        """Name the Jobs; none where nobody is called so. Not to be changed."""
        known = self._keys.get(name, _NOBODY)
        return {known} if isinstance(known, str) else known

    def add(self, name: str, key: str) -> None:
        known = self._keys.get(name)
        if known is None:
            self._keys[name] = key
        elif isinstance(known, set):
            known.add(key)
        elif known != key:
            self._keys[name] = {known, key}

    def discard(self, name: str, key: str) -> None:
        known = self._keys.get(name)
        if isinstance(known, set):
            known.discard(key)
            if len(known) == 1:
                (self._keys[name],) = known
        elif known == key:
            del self._keys[name]


_NOBODY: frozenset[str] = frozenset()


def _names_of(fact: JobFact) -> tuple[str, str] | None:
    """Give what reports may call a Job by; None for one that they do not speak of."""
    return (fact.producer_id, fact.queue_id) if fact.managed else None


def order_of(fact: JobFact) -> tuple[float, int, str]:
    """Order facts about one Job so that a late one cannot bring an old incarnation back.

    The resourceVersion goes before the uid: a Job made again within one second differs in both, and only the
    first of them tells which came later (KEP-5504 makes them comparable).
    """
    return (fact.created_at, fact.resource_version, fact.uid)


def dated_after(known: JobFact, fact: JobFact) -> JobFact:
    """Date an incarnation after the one before it that is gone: the API server's clock may have been ahead.

    Its later facts are dated so, too; else each of them, or a late one of the incarnation before, would be in the wrong
    place. Where the one known is not gone it is left as it is: resourceVersions start over where etcd is restored, and
    then the dates are right.
    """
    if fact.created_at >= known.created_at:
        return fact
    if fact.uid == known.uid and known.created_at % 1:
        return msgspec.structs.replace(fact, created_at=known.created_at)
    if known.condition is Condition.GONE and fact.uid != known.uid and fact.resource_version > known.resource_version:
        return msgspec.structs.replace(fact, created_at=known.created_at + _DATED_AFTER_SECONDS)
    return fact


class ConventionIndex:
    """Names Jobs by the naming rule alone: `identity = convention`, where no cluster can be asked.

    A dialect without queue id is joined to the queue whose id ends with the same short id, once another report has
    named it; until then the producer id itself stands for the Job. It goes on to until the Job gives a sign of life:
    an `error` said under one name and a `finished` under the other would tell of no failure, and a Job that has
    said its last would be lost between the two. Then what stood for the producer alone is told to be gone.

    Of a report that names only a queue see `_by_queue_alone`. A pong makes nobody known: a service answers pings
    whatever has become of its worker, and a Job that is known by pongs alone would be one that never started.
    """

    def __init__(self, namespace: str) -> None:
        #: Incremented whenever a name may resolve differently.
        self.version = 0
        self._namespace = namespace
        #: Each Job with its queue, if that ends with a hyphen and the Job's short id, else "".
        self._known: dict[str, str] = {}
        self._new: list[JobFact] = []
        #: Made of what is known when a report without a queue id asks for the first time: in most fleets none ever
        #: does, and it would be a sixth of what a Job costs here. Till then only what cannot be made of it is kept.
        self._queue_by_short_id: dict[str, str] | None = None
        self._odd_short_ids: dict[str, str] = {}
        #: By the names of queues, those that have a target, too; made when a report without a producer asks.
        self._by_queue: _Holders | None = None
        self._odd_queues: dict[str, str] = {}
        #: Producers that stand for a Job themselves.
        self._alone: set[str] = set()

    def resolve(self, report: Report) -> Resolution:
        """Name the Job; every report has one here, but for a pong, which is of none."""
        if report.kind is Kind.PONG:
            return _OF_NO_JOB
        producer, queue_id = report.producer, report.queue_id
        if not queue_id:
            return self._by_producer_alone(report)
        if not producer:
            return self._by_queue_alone(report)
        target, _, short_id = producer.rpartition("__")
        is_derived = self._join(short_id, queue_id)
        key = self._key_of(queue_id, target)
        if key not in self._known:
            self._meet(key, report, queue_id, target, is_derived=is_derived)
        elif is_derived and self._known[key] != queue_id:
            self._known[key] = sys.intern(queue_id)
        if self._alone and producer in self._alone and self._queues().get(short_id) == queue_id:
            self._retire(report, key)
        return Resolved((key,))

    def take_new(self) -> list[JobFact]:
        """Hand out the made-up facts since the last call: Jobs just named are there and their pods run.

        Where a Job has two names, one of them as long as its queue was not known, the fact that this one is gone
        outranks all that was or will be assumed of it, by whichever worker.
        """
        new, self._new = self._new, []
        return new

    def remember(self, fact: JobFact) -> None:
        """Learn of a Job that is stored, from a worker before: what that one knew of names is known again."""
        producer, queue_id = fact.producer_id, fact.queue_id
        if fact.condition is Condition.GONE or fact.uid or fact.key in self._known:
            return  # with a uid it is of a cluster's
        target, _, short_id = producer.rpartition("__")
        self._enter(fact.key, queue_id, target, is_derived=self._join(short_id, queue_id))
        if not queue_id and fact.key == self._own_name(producer):
            self._alone.add(producer)

    def _by_producer_alone(self, report: Report) -> Resolution:
        producer = report.producer
        target, _, short_id = producer.rpartition("__")
        queue_id = self._queues().get(short_id, "") if short_id else ""
        if not queue_id or (producer in self._alone and report.kind not in SIGNS_OF_LIFE):
            key = self._own_name(producer)
            if key not in self._known:
                self._meet(key, report, "", target, is_derived=False)
                self._alone.add(producer)
            return Resolved((key,))
        key = self._key_of(queue_id, target)
        is_new = key not in self._known
        if is_new:
            self._meet(key, report, queue_id, target, is_derived=_last_part(queue_id) == short_id)
        if is_new or producer in self._alone:  # a new one may stand alone with another worker, or did
            self._retire(report, key)
        return Resolved((key,))

    def _by_queue_alone(self, report: Report) -> Resolution:
        """Count a sign of life for all Jobs known of the queue, and anything else for none: there may be others.

        Where none is known the queue's own name stands for a Job. From then on a sign of life counts for that one,
        too, and anything else for it alone.
        """
        key, is_life = self._own_name(report.queue_id), report.kind in SIGNS_OF_LIFE
        keys = self._queues_jobs().get(key)
        if keys and key not in self._known:
            return Resolved(tuple(sorted(keys)), shared=True)
        if key not in self._known:
            self._meet(key, report, report.queue_id, "", is_derived=False)
        if keys and is_life:
            return Resolved(tuple(sorted({key, *keys})), shared=True)
        return Resolved((key,))

    def _meet(self, key: str, report: Report, queue_id: str, target: str, *, is_derived: bool) -> None:
        """Take in a Job that is named for the first time."""
        self._enter(key, queue_id, target, is_derived=is_derived)
        self._new.append(_assumed(key, report, queue_id, sys.intern(target)))

    def _enter(self, key: str, queue_id: str, target: str, *, is_derived: bool) -> None:
        key, queue_id = sys.intern(key), sys.intern(queue_id)
        self._known[key] = queue_id if is_derived else ""
        if queue_id and target:  # without one the name is the queue's own
            if not is_derived:
                self._odd_queues[key] = queue_id
            if self._by_queue is not None:
                self._by_queue.add(self._own_name(queue_id), key)

    def _retire(self, report: Report, key: str) -> None:
        """Tell that what stood for a producer alone is gone, now that the producer means the Job `key`."""
        producer = report.producer
        alone, stood_alone = self._own_name(producer), producer in self._alone
        self._alone.discard(producer)
        if alone == key or (not stood_alone and alone in self._known):
            return
        if stood_alone:
            del self._known[alone]
            self.version += 1
        fact = _assumed(alone, report, "", sys.intern(target_of(producer)))
        self._new.append(gone(fact, fact.resource_version + 1))

    def _join(self, short_id: str, queue_id: str) -> bool:
        """Note that a short id means this queue from now on, if its name ends so; says whether that name is enough."""
        if not short_id or not queue_id.endswith(short_id):
            return False
        is_derived, queues = _last_part(queue_id) == short_id, self._queue_by_short_id
        if queues is None:
            if not is_derived:
                self._odd_short_ids[short_id] = queue_id
            return is_derived
        known = queues.get(short_id)
        if known != queue_id:
            queues[short_id] = sys.intern(queue_id)
            self.version += known is not None
        return is_derived

    def _queues(self) -> dict[str, str]:
        if self._queue_by_short_id is None:
            derived = {_last_part(queue_id): queue_id for queue_id in self._known.values() if queue_id}
            self._queue_by_short_id = derived | self._odd_short_ids
        return self._queue_by_short_id

    def _queues_jobs(self) -> "_Holders":
        if self._by_queue is None:
            self._by_queue = _Holders()
            for queues in (self._known, self._odd_queues):
                for key, queue_id in queues.items():
                    own_name = self._own_name(queue_id)
                    if queue_id and key != own_name:
                        self._by_queue.add(own_name, key)
        return self._by_queue

    def _key_of(self, queue_id: str, target: str) -> str:
        queue = sanitize(queue_id)
        process = _sanitized_target(target) if target else ""
        name = f"{queue}-{process}" if queue and process else queue or process or "unnamed"
        return f"{self._namespace}/{name}"

    def _own_name(self, text: str) -> str:
        """Give the key of a Job that a producer or a queue stands for alone."""
        return f"{self._namespace}/{sanitize(text) or 'unnamed'}"


def _last_part(queue_id: str) -> str:
    """Give what is behind the last hyphen: the platform's short id."""
    return queue_id.rpartition("-")[2]


def _assumed(key: str, report: Report, queue_id: str, target: str) -> JobFact:
    return JobFact(
        key=key,
        uid="",
        created_at=0.0,
        resource_version=0,
        target=target,
        queue_id=queue_id,
        producer_id=report.producer,
        kafka_topic=queue_id,
        condition=Condition.ACTIVE,
        pod=PodState.RUNNING,
        managed=True,
    )
