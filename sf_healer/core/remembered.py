"""What of a Job's state outlives the process: how it lies in the changelog, and with which times.

A state in memory is laid out for the hot path and for a million Jobs (core/state.py). One without a Seldom lies in the
changelog as it is; for any other there is Remembered, with the fields of both, called the same.
"""

from copy import copy
from typing import cast

import msgspec

from sf_healer.core.state import NEVER, WIRE_NAMES, JobState, OfEveryJob, Seldom, fields_of, state_of

#: The fields of every Job, then those of a Seldom.
Remembered = cast(
    "type[OfEveryJob]",
    msgspec.defstruct(
        "Remembered",
        [(field.name, field.type, field.default) for field in msgspec.structs.fields(Seldom)],
        bases=(OfEveryJob,),
        omit_defaults=True,
        rename=WIRE_NAMES,
        gc=False,
    ),
)


def remembered(state: JobState) -> OfEveryJob:
    """Give a state as it is."""
    return Remembered(*fields_of(state))


def recalled(stored: OfEveryJob) -> JobState:
    """Give the state that was remembered so."""
    return state_of(msgspec.structs.astuple(stored))


def checkpoint_of(at: float, checkpoint_seconds: float) -> int:
    """Return the number of the checkpoint that ends at or after a last-seen time; exact, in milliseconds."""
    return -(-round(at * 1000) // round(checkpoint_seconds * 1000))


def durable(
    state: JobState, checkpoint_seconds: float, *, exact: bool = False, ends: dict[float, float] | None = None
) -> OfEveryJob:
    """Return the state as it is remembered: the last `loading` moved to the end of its checkpoint.

    The changelog is written once per checkpoint, so after a restore the Job may have been heard later than
    the record says, but never later than this: the verdict comes late by a checkpoint at most, never early.
    The same holds for its progress. What was restored stays where it is when written again, else every restart
    would add a checkpoint. `exact`: every `loading` of this Job is stored as it comes, so nothing needs to be
    assumed. `ends` keeps the end of each time's checkpoint for the next call.
    """
    stored = copy(state) if state.seldom is None else remembered(state)
    stored.window = -1
    if not exact and state.loading_at != NEVER:
        ends = {} if ends is None else ends
        stored.loading_at = _end_of_checkpoint(state.loading_at, checkpoint_seconds, ends)
        stored.progress_at = _end_of_checkpoint(state.progress_at, checkpoint_seconds, ends)
    return stored


def _end_of_checkpoint(at: float, checkpoint_seconds: float, known: dict[float, float]) -> float:
    end = known.get(at)
    if end is None:
        end = known[at] = checkpoint_of(at, checkpoint_seconds) * round(checkpoint_seconds * 1000) / 1000
    return end
