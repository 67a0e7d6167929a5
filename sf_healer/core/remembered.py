"""What of a Job's state outlives the process: how it lies in the changelog, and with which times.

A state in memory is laid out for the hot path and for a million Jobs (core/state.py). One without a Seldom lies in the
changelog as it is; for any other there is Remembered, with the fields of both, called the same.
"""

from copy import copy

import msgspec

from sf_healer.core.events import Kind
from sf_healer.core.evidence import OutcomeSeen
from sf_healer.core.facts import JobFact
from sf_healer.core.state import NEVER, WIRE_NAMES, JobState, fields_of, state_of


class Remembered(msgspec.Struct, omit_defaults=True, rename=WIRE_NAMES, gc=False):
    """The fields of a JobState, then those of its Seldom."""

    key: str
    fact: JobFact | None = None
    verdict: str = "unknown"
    window: int = -1
    loading_at: float = NEVER
    loading_source: float = NEVER
    started_source: float = NEVER
    error_source: float = NEVER
    command_id: str = ""
    records_written: int = -1
    progress_at: float = NEVER
    source_partition: int = -1
    source_offset: int = -1
    alive_uid: str = ""
    running_at: float = NEVER
    idle_pod_at: float = NEVER
    started_at: float = NEVER
    seen_at: float = NEVER
    condition_at: float = NEVER
    errors_from: float = NEVER
    error_at: float = NEVER
    error_finished: bool = False
    error_detail: str = ""
    finished_source: float = NEVER
    finished_at: float = NEVER
    interrupted_source: float = NEVER
    interrupted_at: float = NEVER
    hold_at: float = NEVER
    command_uid: str = ""
    command_verdict: str = ""
    command_source: float = NEVER
    command_deadline: float = NEVER
    retry_at: float = NEVER
    outcome: OutcomeSeen | None = None
    unhealthy_at: float = NEVER
    error_partition: int = -1
    error_offset: int = -1
    error_since_at: float = NEVER
    error_since_source: float = NEVER
    doubtful_life_at: float = NEVER
    idle_at: float = NEVER
    cadence: list[int] | None = None
    hold_places: tuple[tuple[int, int, float], ...] = ()
    pod_ended_at: float = NEVER
    dated: dict[Kind, tuple[float, float]] | None = None
    error_said: float = NEVER
    finished_said: float = NEVER


#: What is written of a state.
Stored = JobState | Remembered


def remembered(state: JobState) -> Remembered:
    """Give a state as it is."""
    return Remembered(*fields_of(state))


def recalled(stored: Remembered) -> JobState:
    """Give the state that was remembered so."""
    return state_of(msgspec.structs.astuple(stored))


def checkpoint_of(at: float, checkpoint_seconds: float) -> int:
    """Return the number of the checkpoint that ends at or after a last-seen time; exact, in milliseconds."""
    return -(-round(at * 1000) // round(checkpoint_seconds * 1000))


def durable(
    state: JobState, checkpoint_seconds: float, *, exact: bool = False, ends: dict[float, float] | None = None
) -> Stored:
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
