"""What of a Job's state outlives the process: how it lies in the changelog, and with which times.

A state in memory is laid out for the hot path and for a million Jobs (core/state.py); this is the one place that says
what its fields are called for good.
"""

import msgspec
from msgspec import field

from sf_healer.core.events import Kind
from sf_healer.core.evidence import OutcomeSeen
from sf_healer.core.facts import JobFact
from sf_healer.core.state import NEVER, JobState, fields_of, state_of


class Remembered(msgspec.Struct, omit_defaults=True, gc=False):
    """A state as it lies in the changelog: the fields of a JobState, then those of its Seldom.

    Only those that are not at their default are written: most of a Job's are, and a default that is read back is one
    object for all Jobs, where a number read is one of its own.
    """

    key: str = field(name="k")
    fact: JobFact | None = field(default=None, name="f")
    verdict: str = field(default="unknown", name="v")
    window: int = field(default=-1, name="w")
    loading_at: float = field(default=NEVER, name="la")
    loading_source: float = field(default=NEVER, name="ls")
    started_source: float = field(default=NEVER, name="ss")
    error_source: float = field(default=NEVER, name="es")
    command_id: str = field(default="", name="ci")
    records_written: int = field(default=-1, name="rw")
    progress_at: float = field(default=NEVER, name="pa")
    source_partition: int = field(default=-1, name="sp")
    source_offset: int = field(default=-1, name="so")
    alive_uid: str = field(default="", name="au")
    running_at: float = field(default=NEVER, name="ra")
    idle_pod_at: float = field(default=NEVER, name="ip")
    started_at: float = field(default=NEVER, name="sa")
    seen_at: float = field(default=NEVER, name="se")
    condition_at: float = field(default=NEVER, name="ca")
    errors_from: float = field(default=NEVER, name="fe")
    error_at: float = field(default=NEVER, name="ea")
    error_finished: bool = field(default=False, name="ef")
    error_detail: str = field(default="", name="ed")
    finished_source: float = field(default=NEVER, name="fs")
    finished_at: float = field(default=NEVER, name="fa")
    interrupted_source: float = field(default=NEVER, name="is")
    interrupted_at: float = field(default=NEVER, name="ia")
    hold_at: float = field(default=NEVER, name="ha")
    command_uid: str = field(default="", name="cu")
    command_verdict: str = field(default="", name="cv")
    command_source: float = field(default=NEVER, name="cs")
    command_deadline: float = field(default=NEVER, name="cd")
    retry_at: float = field(default=NEVER, name="rt")
    outcome: OutcomeSeen | None = field(default=None, name="o")
    unhealthy_at: float = field(default=NEVER, name="ua")
    error_partition: int = field(default=-1, name="ep")
    error_offset: int = field(default=-1, name="eo")
    error_since_at: float = field(default=NEVER, name="ta")
    error_since_source: float = field(default=NEVER, name="ts")
    doubtful_life_at: float = field(default=NEVER, name="da")
    idle_at: float = field(default=NEVER, name="id")
    cadence: list[int] | None = field(default=None, name="c")
    hold_places: tuple[tuple[int, int, float], ...] = field(default=(), name="hp")
    pod_ended_at: float = field(default=NEVER, name="pe")
    dated: dict[Kind, tuple[float, float]] | None = field(default=None, name="d")
    error_said: float = field(default=NEVER, name="ey")
    finished_said: float = field(default=NEVER, name="fy")


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
) -> Remembered:
    """Return the state as it is remembered: the last `loading` moved to the end of its checkpoint.

    The changelog is written once per checkpoint, so after a restore the Job may have been heard later than
    the record says, but never later than this: the verdict comes late by a checkpoint at most, never early.
    The same holds for its progress. What was restored stays where it is when written again, else every restart
    would add a checkpoint. `exact`: every `loading` of this Job is stored as it comes, so nothing needs to be
    assumed. `ends` keeps the end of each time's checkpoint for the next call.
    """
    stored = remembered(state)
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
