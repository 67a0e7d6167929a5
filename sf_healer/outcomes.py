"""What became of commands, as it lies on `healer-outcomes`: workers remember the last few restarts of a Job only.

A Job that a storm or a pause holds back is refused again and again: what repeats is told once. Nothing here changes
anything.
"""

from collections import OrderedDict

import msgspec

from sf_healer.core.commands import Outcome, Result, decode_outcome
from sf_healer.past import Newest, ago, places_of, reader, records
from sf_healer.settings import Settings
from sf_healer.topics import OUTCOMES

#: Of so many Jobs what they were told last is kept, to see whether it is told again.
_MOST_OPEN = 10_000


class Told(msgspec.Struct):
    """An outcome, how often it was told one after the other, and when first; `outcome` is the last of them."""

    outcome: Outcome
    times: int
    first_at: float  # epoch seconds


class Found(msgspec.Struct, frozen=True):
    """The outcomes of a time, the newest first."""

    since: float  # epoch seconds
    told: list[Told]
    left_out: int  # older ones, of that time too
    unreadable: int


async def find(
    settings: Settings, *, since_seconds: float, newest: int, job: str | None = None, result: Result | None = None
) -> Found:
    """Read what became of commands in the last `since_seconds`: of all Jobs or one, of all results or one.

    Raises BrokerUnreachableError, BrokerRefusedError, and NoTopicError where there is no such topic.
    """
    since, rows = ago(since_seconds), _Rows(newest)
    unreadable = 0
    places = await places_of(settings, OUTCOMES)
    async with reader(settings) as consumer:
        async for record in records(consumer, places, since):
            outcome = decode_outcome(record.value)
            if not isinstance(outcome, Outcome):
                unreadable += 1
            elif job in {None, outcome.key} and result in {None, outcome.result}:
                rows.add(outcome)
    told = rows.newest_first()
    return Found(since, told, rows.count - len(told), unreadable)


class _Rows:
    """The newest rows, and those that may still go on."""

    def __init__(self, newest: int) -> None:
        self.count = 0
        self._closed: Newest[Told] = Newest(newest)
        self._open: OrderedDict[str, Told] = OrderedDict()  # by Job, the one that went on last at the end

    def add(self, outcome: Outcome) -> None:
        known = self._open.get(outcome.key)
        if known is not None and _is_same(known.outcome, outcome):
            known.outcome, known.times = outcome, known.times + 1
            self._open.move_to_end(outcome.key)
            return
        if known is not None:
            self._close(self._open.pop(outcome.key))
        self.count += 1
        self._open[outcome.key] = Told(outcome, 1, outcome.at)
        if len(self._open) > _MOST_OPEN:
            self._close(self._open.popitem(last=False)[1])

    def newest_first(self) -> list[Told]:
        while self._open:
            self._close(self._open.popitem(last=False)[1])
        return self._closed.newest_first()

    def _close(self, told: Told) -> None:
        self._closed.add(told.outcome.at, told)


def _is_same(one: Outcome, other: Outcome) -> bool:
    """Return whether two outcomes of a Job tell the same; no two restarts do."""
    what = one.result, one.reason, one.uid, one.verdict
    return one.result is Result.REFUSED and what == (other.result, other.reason, other.uid, other.verdict)
