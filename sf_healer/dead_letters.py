"""The dead letters as they lie on their topic: read for a person, and counted for a check.

What a letter's headers say is core/dead_letters.py's. Nothing here changes anything.
"""

from collections import Counter
from collections.abc import Collection

import msgspec

from sf_healer.core.dead_letters import DeadLetter, read
from sf_healer.past import Newest, ago, begins_of, places_of, reader, records
from sf_healer.settings import Settings
from sf_healer.topics import DEAD_LETTERS

_MS = 1000
#: There are fewer than twenty; whoever may write to the topic may make up others.
_MOST_REASONS = 100
_OTHER_REASONS = "(other reasons)"


class Found(msgspec.Struct, frozen=True):
    """The dead letters of a time: how many of each reason, and the newest of them, the newest first."""

    since: float  # epoch seconds
    counts: dict[str, int]
    dead_letters: list[DeadLetter]


async def find(settings: Settings, *, since_seconds: float, newest: int, reason: str | None = None) -> Found:
    """Read what was buried in the last `since_seconds`: count all of it, keep the newest, with `reason` those alone.

    Holds `newest` letters and one fetch, however many there are. Raises BrokerUnreachableError, BrokerRefusedError,
    and NoTopicError where there is no such topic.
    """
    since = ago(since_seconds)
    counts: Counter[str] = Counter()
    kept: Newest[DeadLetter] = Newest(newest)
    places = await places_of(settings, DEAD_LETTERS)
    async with reader(settings) as consumer:
        async for record in records(consumer, places, since):
            letter = read(record.timestamp / _MS, record.headers, record.value)
            counts[_countable(letter.reason, counts)] += 1
            if reason in {None, letter.reason}:
                kept.add(letter.at, letter)
    return Found(since, dict(counts.most_common()), kept.newest_first())


async def count(settings: Settings, *, since_seconds: float) -> int:
    """Count by their offsets what was buried in the last `since_seconds`, reading none; raises as `find` does.

    A broker that looks up no offsets by time, as that of the demo, gives all there are.
    """
    places = await places_of(settings, DEAD_LETTERS)
    async with reader(settings) as consumer:
        begins = await begins_of(consumer, places, ago(since_seconds))
        ends = await consumer.end_offsets(places)
        return sum(end - begins[place] for place, end in ends.items() if place in begins)


def _countable(reason: str, counts: Collection[str]) -> str:
    return reason if reason in counts or len(counts) < _MOST_REASONS else _OTHER_REASONS
