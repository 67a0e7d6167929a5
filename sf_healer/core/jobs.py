"""The Jobs of one evidence partition: those that are plainly well rest in rows of numbers, all others are objects.

Nearly all Jobs are well, and nearly all that is said of them is another `loading`. As objects each of their numbers
lies in a place of its own, and with 100,000 Jobs no cache holds those places: what a report cost was the waiting for
them. So a Job of which nothing is known but that it is well is put to rest: its numbers lie side by side in one row,
and a bundle of reports is folded into the rows of all its Jobs at once (`fold_beats`). It takes less memory, too.

A Job is either at rest or an object, never both, so nobody can look at what is outdated: whoever asks for a Job wakes
it, and gets the object with all that was folded into its row. `copy_of` is for those who only look.
"""

import struct
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from sf_healer.core.evidence import Beats
from sf_healer.core.facts import JobFact
from sf_healer.core.lookup import Lookup
from sf_healer.core.state import NEVER, JobState
from sf_healer.core.verdicts import Verdict
from sf_healer.core.windows import NO_WINDOW

_HEALTHY = Verdict.HEALTHY

#: A row: what nearly each report looks at comes first, in one line of the CPU's cache (64 bytes).
_ROW = struct.Struct("=5d3q6d2q")
_ITEMS = _ROW.size // 8
_LOADING_AT, _LOADING_SOURCE, _PROGRESS_AT, _STARTED_SOURCE, _CREATED_AT = range(5)
_RECORDS_WRITTEN, _SOURCE_OFFSET, _SOURCE_PARTITION = 5, 6, 7
_WINDOW = 14

#: Rows at first, and by how much they grow: in small steps, for what is free is memory as well.
_ROWS = 256
_GROWTH = 1.25


class Folded(NamedTuple):
    """What became of the beats of a bundle."""

    left: list[int]  # which of them are still to be folded, one by one
    changed: list[str]  # the Jobs of which something is to be stored
    passed_over: int  # those that were folded before
    highest: int  # the highest offset of all, -1 where there are none


class Jobs(MutableMapping[str, JobState]):
    """A mapping from the keys of Jobs to their states. To take a state out of it wakes the Job.

    A Job that has been at rest keeps its row while it is awake, marked as not to be folded into.
    """

    def __init__(self) -> None:
        self._awake: dict[str, JobState] = {}
        self._slots: dict[str, int] = {}  # of those that have a row
        self._lookup = Lookup()
        self._facts: list[JobFact | None] = [None]  # by slot, as is the buffer
        self._free: list[int] = []
        self._resting = 0
        self._reserve(_ROWS)

    # ---- a mapping

    def __getitem__(self, key: str) -> JobState:
        state = self._awake.get(key)
        return self._wake(self._slots[key]) if state is None else state

    def get(self, key: str, default: None = None) -> JobState | None:  # type: ignore[override]  # no other default
        """Take a state out, awake; None where there is no such Job."""
        state = self._awake.get(key)
        if state is not None:
            return state
        slot = self._slots.get(key)
        return default if slot is None else self._wake(slot)

    def __setitem__(self, key: str, state: JobState) -> None:
        if key not in self._awake and (slot := self._slots.get(key)) is not None:
            self._wake(slot)
        self._awake[key] = state

    def __delitem__(self, key: str) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            if key not in self._awake:
                self._wake(slot)
            self._lookup.remove(slot)
            self._free.append(slot)
        del self._awake[key]

    def __contains__(self, key: object) -> bool:
        return key in self._awake or key in self._slots

    def __iter__(self) -> Iterator[str]:
        awake, resting = tuple(self._awake), [key for key in self._slots if key not in self._awake]
        yield from awake  # the others may be woken meanwhile
        yield from resting

    def __len__(self) -> int:
        return len(self._awake) + self._resting

    # ---- to look without waking

    @property
    def at_rest(self) -> int:
        """How many Jobs are at rest."""
        return self._resting

    def copy_of(self, key: str) -> JobState | None:
        """Give a Job's state to look at, and nothing else: of one at rest it is a copy."""
        state = self._awake.get(key)
        if state is not None:
            return state
        slot = self._slots.get(key)
        return None if slot is None else self._state(slot)

    def fact_of(self, key: str) -> JobFact | None:
        """Give what is known of a Job from the cluster."""
        state = self._awake.get(key)
        if state is not None:
            return state.fact
        slot = self._slots.get(key)
        return None if slot is None else self._facts[slot]

    def verdict_of(self, key: str) -> str | None:
        """Give a Job's verdict; None where there is no such Job."""
        state = self._awake.get(key)
        if state is not None:
            return state.verdict
        return _HEALTHY if key in self._slots else None

    def waiting(self, key: str, window: int) -> JobState | None:
        """Give a Job that waits in a window of the sweep, awake; None where it does not."""
        state = self._awake.get(key)
        if state is not None:
            return state if state.window == window else None
        slot = self._slots.get(key)
        if slot is None or self._ints[slot, _WINDOW] != window:
            return None
        return self._wake(slot)

    # ---- rest

    def rest(self, states: Iterable[JobState]) -> None:
        """Put those Jobs to rest of which a row says all; whoever has their states must forget them."""
        awake, slots = self._awake, self._slots
        resting = [state for state in states if awake.get(state.key) is state and _may_rest(state)]
        self._give_rows([state.key for state in resting if state.key not in slots])
        for state in resting:
            if state.key in slots and awake.pop(state.key, None) is not None:
                self._write(state)

    def take_in(self, states: Sequence[JobState], *, at_rest: bool) -> list[JobState]:
        """Take in Jobs that are not there yet, `at_rest` if they may; returns those that are awake."""
        slots = self._slots
        if at_rest:
            self._give_rows([state.key for state in states if _may_rest(state)])
        awake = []
        for state in states:
            if state.key in slots:
                self._write(state)
            else:
                self._awake[state.key] = state
                awake.append(state)
        return awake

    def _write(self, state: JobState) -> None:
        """Write the row of a Job that has one."""
        slot = self._slots[state.key]
        self._facts[slot] = state.fact
        self._resting += 1
        _ROW.pack_into(
            self._buffer,
            slot * _ROW.size,
            state.loading_at,
            state.loading_source,
            state.progress_at,
            state.started_source,
            state.created_at,
            state.records_written,
            state.source_offset,
            state.source_partition,
            state.started_at,
            state.running_at,
            state.idle_pod_at,
            state.seen_at,
            state.condition_at,
            state.errors_from,
            state.window,
            state.alive_uid != "",
        )

    def _wake(self, slot: int) -> JobState:
        """Make an object of a Job at rest; no bundle is folded into its row from now on."""
        state = self._state(slot)
        self._awake[state.key] = state
        self._floats[slot, _LOADING_AT] = -inf
        self._facts[slot] = None
        self._resting -= 1
        return state

    def _state(self, slot: int) -> JobState:
        (
            loading_at,
            loading_source,
            progress_at,
            started_source,
            _,
            records_written,
            source_offset,
            source_partition,
            started_at,
            running_at,
            idle_pod_at,
            seen_at,
            condition_at,
            errors_from,
            window,
            is_alive,
        ) = _ROW.unpack_from(self._buffer, slot * _ROW.size)
        fact = self._facts[slot]
        return JobState(  # in the order of its fields: with their names it takes half as long again
            self._lookup.names[slot],
            fact,
            _HEALTHY,
            window,
            loading_at,
            loading_source,
            started_source,
            NEVER,
            "",
            records_written,
            progress_at,
            source_partition,
            source_offset,
            fact.uid if is_alive and fact is not None else "",
            running_at,
            idle_pod_at,
            started_at,
            seen_at,
            condition_at,
            errors_from,
        )

    def _give_rows(self, keys: Iterable[str]) -> None:
        """Give Jobs a row each, but for one whose key has the hash of another's."""
        keys = list(dict.fromkeys(keys))
        if not keys:
            return
        fresh = max(0, len(keys) - len(self._free))
        slots = [*range(len(self._facts), len(self._facts) + fresh), *(self._free.pop() for _ in keys[fresh:])]
        self._facts += [None] * fresh
        if len(self._facts) > len(self._floats):
            self._reserve(int(len(self._facts) * _GROWTH))
        for key, slot, is_taken in zip(keys, slots, self._lookup.add(keys, slots), strict=True):
            if is_taken:
                self._slots[key] = slot
            else:
                self._free.append(slot)

    def _reserve(self, rows: int) -> None:
        """Make room for so many rows; those there are stay as they are."""
        known = getattr(self, "_buffer", b"")
        self._buffer = bytearray(rows * _ROW.size)
        self._buffer[: len(known)] = known
        self._floats = np.frombuffer(self._buffer, np.float64).reshape(rows, _ITEMS)
        self._ints = np.frombuffer(self._buffer, np.int64).reshape(rows, _ITEMS)
        self._floats[0, _LOADING_AT] = -inf

    # ---- folding

    def fold_beats(
        self,
        beats: Beats,
        *,
        at: float,
        source_partition: int,
        known: int,
        not_before: float,
        inside: tuple[float, float],
        before: float,
    ) -> Folded:
        """Fold the beats of Jobs at rest that stay so, and say which others are left.

        It comes to what state.fold_beat comes to for a Job that is well. Offsets up to `known` were folded before. Of a
        Job that was last heard `inside` of the checkpoint of `at` nothing is to be stored; of one that was last heard
        `before` it something is, and so of its progress. In between the exact rule has to be asked: it is left.
        """
        columns = beats.columns()
        offsets, source_at, written = columns.offset, columns.source_at, columns.records_written
        is_new = offsets > known
        slots = self._lookup.find(beats.keys)
        rows = self._floats.take(slots, axis=0)
        heard_at, said_at, progress_at = rows[:, _LOADING_AT], rows[:, _LOADING_SOURCE], rows[:, _PROGRESS_AT]
        is_newer = source_at > said_at
        is_progress = is_newer & (written >= 0) & (written != rows.view(np.int64)[:, _RECORDS_WRITTEN])
        is_later = heard_at < before
        moves_on = is_progress & (progress_at != heard_at)
        is_plain = (
            is_new
            & (heard_at >= NEVER)  # those of nobody and of who is awake are not
            & (heard_at <= at)
            & (is_later | ((heard_at > inside[0]) & (heard_at < inside[1])))
            & (source_at != said_at)
            & (source_at <= at)
            & (source_at >= not_before)
            & (source_at >= rows[:, _CREATED_AT])
            & (~is_newer | (source_at > rows[:, _STARTED_SOURCE]))
            & (is_later | ~moves_on | (progress_at < before) | ((progress_at > inside[0]) & (progress_at < inside[1])))
        )
        if columns.said_at is not None:
            is_plain &= np.isnan(columns.said_at)
        self._floats[slots[is_plain], _LOADING_AT] = at
        newer = is_plain & is_newer
        chosen = slots[newer]
        self._floats[chosen, _LOADING_SOURCE] = source_at[newer]
        self._ints[chosen, _SOURCE_OFFSET] = offsets[newer]
        self._ints[chosen, _SOURCE_PARTITION] = source_partition
        progress = is_plain & is_progress
        chosen = slots[progress]
        self._floats[chosen, _PROGRESS_AT] = at
        self._ints[chosen, _RECORDS_WRITTEN] = written[progress]
        changed = np.flatnonzero(is_plain & (is_later | (moves_on & (progress_at < before))))
        return Folded(
            left=np.flatnonzero(is_new & ~is_plain).tolist(),
            changed=[beats.keys[each] for each in changed.tolist()],
            passed_over=len(beats) - int(np.count_nonzero(is_new)),
            highest=int(offsets.max(initial=-1)),
        )


def _may_rest(state: JobState) -> bool:
    """Say whether a row can hold all that is known of a Job."""
    fact = state.fact
    return (
        state.verdict == _HEALTHY
        and state.seldom is None
        and fact is not None
        and not state.command_id
        and state.error_source == NEVER
        and state.window != NO_WINDOW
        and (state.alive_uid == fact.uid or (not state.alive_uid and not fact.action_id))
    )
