"""Dead letters: records that are what their topic is not for, kept whole with where they came from.

The steps log has none: its records hold manifests with secrets, and stay on the log itself for a week.
"""

import hashlib

from faust.types import TopicT

from agents.sending import Outgoing
from sf_healer.core.combine import Rejected
from sf_healer.core.dead_letters import Header

DEAD_LETTER_BYTES = 64 * 1024
#: A detail may quote what could not be read, however long that is.
DETAIL_CHARACTERS = 500


def dead_letter(to: TopicT, topic: str, partition: int, reject: Rejected) -> Outgoing:
    """Address a record of `topic` to the dead letters (`to`, on the app that sends).

    The key is its place in the source: it keeps redelivered letters apart from others of the same bytes, and no
    client sends a record that has neither key nor value, as that of a null message would be.
    """
    value = reject.record.value
    told = {
        Header.REASON: reject.reason,
        Header.DETAIL: reject.detail[:DETAIL_CHARACTERS],
        Header.SOURCE_TOPIC: topic,
        Header.SOURCE_PARTITION: str(partition),
        Header.SOURCE_OFFSET: str(reject.record.offset),
        Header.ORIGINAL_SIZE: str(len(value) if value is not None else 0),
        Header.SHA256: hashlib.sha256(value or b"").hexdigest(),
    }
    headers = {header.value: text.encode(errors="replace") for header, text in told.items() if text}
    kept = value if value is None else value[:DEAD_LETTER_BYTES]
    key = f"{topic}/{partition}/{reject.record.offset}".encode()
    return Outgoing(to, kept, partition=0, key=key, headers=headers)
