"""A hash table that is asked for thousands of names at once.

Python's own dict answers one name after the other, and with many names each answer is waited for: the table, the entry
and the name itself lie in places that no cache holds. Here the answers for a whole batch are fetched side by side: the
slots by the names' hashes, which lie in arrays, and then the names that are there, to compare them.

Of two names of one hash, which Python gives to one pair among a million names in some 10**7 processes, the table holds
the first alone.
"""

from collections.abc import Sequence
from itertools import compress
from operator import ne
from typing import cast

import numpy as np
from numpy.typing import NDArray

#: The slot of nobody.
NOBODY = 0
_NO_HASH = -1  # Python's hashes are never -1
_LEAST = 1024


class Lookup:
    """Names by the numbers of their slots, 1 and above, which the caller gives out and keeps small."""

    def __init__(self) -> None:
        self.names = [""]  # by slot; "" where there is none
        self._hashes: NDArray[np.int64] = np.full(_LEAST, _NO_HASH)  # by slot
        self._table: NDArray[np.int32] = np.zeros(_LEAST, np.int32)  # slots, by hash and then on; NOBODY ends a search
        self._used = 0  # places of the table that are taken, be it by what was removed

    def add(self, names: Sequence[str], slots: Sequence[int]) -> list[bool]:
        """Take in names that are not there; says of each whether it was: not where another of the same hash is."""
        digests, numbers = np.fromiter(map(hash, names), np.int64, len(names)), np.array(slots, np.int32)
        is_taken = self._find(digests) == NOBODY
        if len(set(digests.tolist())) < len(names):  # the first of each hash
            is_taken &= np.isin(np.arange(len(names)), np.unique(digests, return_index=True)[1])
        taken = cast("list[bool]", is_taken.tolist())
        self.names += [""] * (max(slots, default=0) + 1 - len(self.names))
        for slot, name in compress(zip(slots, names, strict=True), taken):
            self.names[slot] = name
        digests, numbers = digests[is_taken], numbers[is_taken]
        highest = int(numbers.max(initial=0))
        if highest >= len(self._hashes):
            more = np.full(highest + 1 - len(self._hashes) + highest // 4, _NO_HASH)
            self._hashes = np.concatenate([self._hashes, more])
        self._hashes[numbers] = digests
        self._used += len(numbers)
        if 2 * self._used > len(self._table):
            self._rebuild()
        else:
            self._place(numbers)
        return taken

    def remove(self, slot: int) -> None:
        """Forget the name of a slot."""
        self._hashes[slot], self.names[slot] = _NO_HASH, ""

    def find(self, names: list[str]) -> NDArray[np.intp]:
        """Give the slot of each name, NOBODY where there is none."""
        slots = self._find(np.fromiter(map(hash, names), np.int64, len(names)))
        there = list(map(self.names.__getitem__, slots.tolist()))
        if there != names:
            slots[np.fromiter(map(ne, there, names), np.bool, len(names))] = NOBODY
        return slots

    def _find(self, digests: NDArray[np.int64]) -> NDArray[np.intp]:
        mask = len(self._table) - 1
        places = digests & mask
        found = self._table.take(places).astype(np.intp)
        searching = np.flatnonzero((self._hashes.take(found) != digests) & (found != NOBODY))
        while len(searching):
            places[searching] = (places[searching] + 1) & mask
            slots = self._table.take(places[searching])
            found[searching] = slots
            searching = searching[(self._hashes.take(slots) != digests[searching]) & (slots != NOBODY)]
        return found

    def _rebuild(self) -> None:
        """Make a table of those that are there, half of which stays free at least for as many again."""
        slots = np.flatnonzero(self._hashes != _NO_HASH).astype(np.int32)
        self._used = len(slots)
        self._table = np.zeros(max(_LEAST, 1 << (4 * self._used - 1).bit_length()), np.int32)
        self._place(slots)

    def _place(self, slots: NDArray[np.int32]) -> None:
        """Enter slots whose hashes are known: each at the first free place from its hash on."""
        table, mask = self._table, len(self._table) - 1
        places = self._hashes.take(slots) & mask
        while len(slots):
            is_free = table.take(places) == NOBODY
            table[places[is_free]] = slots[is_free]  # of several for one place one gets it
            others = table.take(places) != slots
            slots, places = slots[others], (places[others] + 1) & mask
