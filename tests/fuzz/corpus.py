"""What mutations begin with: what the platform's services send, and what has been seen to arrive beside it.

Made up from a seed, the same everywhere; recorded messages are added where there are any (SF_HEALER_CAPTURES, or the
directory that tests/lab/wanting.py looks in).
"""

from __future__ import annotations

import base64
import random
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from sf_healer import captures
from sf_healer.core.events import Report, decode
from sf_healer.core.identity import sanitize, target_of
from tests.core.strategies import a_fact
from tests.lab import wanting
from tests.lab.captures import generate_capture

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sf_healer.core.facts import JobFact

KEPT_OF_A_KIND = 400
_LONGEST_KEPT = 4_000


class Corpus(NamedTuple):
    """Messages to begin with, and the Jobs they speak of."""

    messages: Sequence[bytes]
    objects: Sequence[Sequence[tuple[bytes, bytes]]]  # those that are JSON objects: encoded fields and values
    facts: Sequence[JobFact]
    recorded: int  # how many of the messages are real ones


def load(directory: Path | None = None) -> Corpus:
    """Load the corpus: made up messages, and the recorded ones of a directory if there is one."""
    made_up = _some([base64.b64decode(row["value_b64"]) for row in generate_capture(0).lines if row["value_b64"]])
    directory = directory or wanting.captures()
    recorded = _some(_recorded(directory)) if directory else []
    messages = [*made_up, *recorded]
    return Corpus(
        messages, [fields for message in messages if (fields := _fields(message))], _jobs(messages), len(recorded)
    )


def _recorded(directory: Path) -> list[bytes]:
    found = []
    dialects = directory / "dialects.jsonl"
    if dialects.is_file():
        found += [
            base64.b64decode(msgspec.json.decode(line)["value_b64"]) for line in dialects.read_bytes().splitlines()
        ]
    for path in sorted(directory.glob("captures/*.jsonl.gz")):
        found += [line.value for line in captures.read_file(path) if line.value is not None]
    return found


def _some(messages: Iterable[bytes]) -> list[bytes]:
    """Keep some of each kind, short ones: a mutation of a long one is hardly one."""
    of_a_kind: defaultdict[str, list[bytes]] = defaultdict(list)
    for message in sorted({message for message in messages if len(message) <= _LONGEST_KEPT}):
        decoded = decode(message)
        of_a_kind[decoded.kind.name if isinstance(decoded, Report) else decoded.reason].append(message)
    rng = random.Random(0)
    return [
        message
        for _, found in sorted(of_a_kind.items())
        for message in rng.sample(found, min(len(found), KEPT_OF_A_KIND))
    ]


def _fields(message: bytes) -> list[tuple[bytes, bytes]]:
    """Take a JSON object apart, values as they are written; nothing for any other message."""
    try:
        fields = msgspec.json.decode(message, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return [(msgspec.json.encode(name), bytes(value)) for name, value in fields.items()]


def _jobs(messages: Iterable[bytes]) -> list[JobFact]:
    """Make a Job for each producer of a queue, as the platform names it."""
    named = {
        (report.producer, report.queue_id)
        for report in map(decode, messages)
        if isinstance(report, Report) and report.producer and report.queue_id
    }
    return [
        a_fact(
            f"stf/{sanitize(queue_id)}-{sanitize(target_of(producer))}"[:67].rstrip("-"),
            uid=f"uid-{number}",
            target=target_of(producer),
            queue_id=queue_id,
            producer_id=producer,
        )
        for number, (producer, queue_id) in enumerate(sorted(named))
    ]
