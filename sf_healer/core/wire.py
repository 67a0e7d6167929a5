"""What the numbers and names on our logs may be: types, to which msgspec holds every record that is read.

A record that can be read but neither calculated with nor stored would end every worker that reads it, again and
again. What is beyond these bounds is no record of ours, whoever wrote it, and treated as what cannot be read.
"""

from typing import Annotated

import msgspec

FARTHEST_SECONDS = 1e12  # 31,700 years: a tenth of a millisecond still counts in a float
_INT32 = 2**31 - 1
_INT64 = 2**63 - 1

#: Epoch seconds. Neither infinite nor NaN: a sweep up to a watermark that is either would never end.
Moment = Annotated[float, msgspec.Meta(ge=-FARTHEST_SECONDS, le=FARTHEST_SECONDS)]
#: A length of time.
Seconds = Annotated[float, msgspec.Meta(ge=-FARTHEST_SECONDS, le=FARTHEST_SECONDS)]
#: How many of something.
Count = Annotated[int, msgspec.Meta(ge=0, le=_INT32)]
#: A partition; -1 where there is none.
Number = Annotated[int, msgspec.Meta(ge=-1, le=_INT32)]
#: An offset, a resourceVersion or a number of records; -1 where there is none.
Offset = Annotated[int, msgspec.Meta(ge=-1, le=_INT64)]
#: namespace/name. Any other key could be taken for that of something else in the table (actuator.LEDGER_KEY).
JobKey = Annotated[str, msgspec.Meta(pattern=r"\A[^/\x00]+/[^/\x00]+\Z")]


def printable(text: str) -> str:
    """Give a text of others so that it does nothing to a terminal and makes no line: what does not print is escaped."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def other_version(what: str, version: int, known: int) -> str:
    """Say that a stored record cannot be read, and what then: nothing of it is lost, its reader stays where it is."""
    wrote = "a later release wrote it. Run that one again" if version > known else "a release before wrote it"
    return f"{what} of schema version {version}; this worker knows {known}: {wrote} (docs/deployment.md, Upgrade)"
