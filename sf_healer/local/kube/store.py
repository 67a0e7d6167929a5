"""Objects by kind and name, their versions, and the history that watches are served from.

One writer at a time: everything here runs in the event loop of the local cluster. Objects that went in or
came out are never changed in place.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from sf_healer.local.kube.objects import Kind, Object, edited, name_of, namespace_of

HISTORY = 1000  # changes of one kind that a watch can still ask for
_FIRST_VERSION = 100  # so that "1" is too old, as in a cluster that has lived


class Change(NamedTuple):
    """What happened to an object, and what it was before."""

    version: int
    type: str  # ADDED, MODIFIED, DELETED
    object: Object
    before: Object | None


class HistoryExpired(Exception):  # noqa: N818  # the API's own word
    """A watch asks for changes that are no longer kept (410)."""


class Store:
    """What etcd is to the API server: the objects, and one growing version for all of them."""

    def __init__(self, *, history: int = HISTORY) -> None:
        self.version = _FIRST_VERSION
        self._limit = history
        self._objects: dict[Kind, dict[tuple[str, str], Object]] = {}
        self._history: dict[Kind, deque[Change]] = {}
        self._forgotten: dict[Kind, int] = {}
        self._floor = _FIRST_VERSION  # of all kinds
        self._listeners: list[Callable[[Kind, Change], None]] = []
        self._changed = asyncio.Event()
        self.closed = False

    def listen(self, listener: Callable[[Kind, Change], None]) -> None:
        """Have every change told, right after it was made."""
        self._listeners.append(listener)

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Give an object, or None."""
        return self._objects.get(kind, {}).get((namespace, name))

    def all_of(self, kind: Kind, namespace: str | None = None) -> list[Object]:
        """Give all objects of a kind, of one namespace or of all, in the order of their keys."""
        held = self._objects.get(kind, {})
        return [held[key] for key in sorted(held) if namespace is None or key[0] == namespace]

    def put(self, kind: Kind, item: Object) -> Object:
        """Create or replace; gives it back with its new version. Nothing happens when nothing changed."""
        held = self._objects.setdefault(kind, {})
        key = (namespace_of(item), name_of(item))
        before = held.get(key)
        if before == item:
            return before
        held[key] = stored = self._stamped(item)
        self._happened(kind, "ADDED" if before is None else "MODIFIED", stored, before)
        return stored

    def remove(self, kind: Kind, item: Object) -> None:
        """Take an object out."""
        before = self._objects[kind].pop((namespace_of(item), name_of(item)))
        self._happened(kind, "DELETED", self._stamped(before), before)

    def changes_since(self, kind: Kind, version: int) -> list[Change]:
        """Give what happened to a kind after a version; raises HistoryExpired."""
        oldest = max(self._floor, self._forgotten.get(kind, 0))
        if version < oldest:
            raise HistoryExpired(f"too old resource version: {version} ({oldest})")
        return [change for change in self._history.get(kind, ()) if change.version > version]

    def forget_history(self) -> None:
        """Make every watch that lags start from a list again (etcd calls it compaction)."""
        self._history.clear()
        self.version += 1
        self._floor = self.version
        self._wake()

    async def wait_for_change(self) -> None:
        """Return at the next change, or when the store is closed."""
        if not self.closed:
            await self._changed.wait()

    def close(self) -> None:
        """End all waiting, for good."""
        self.closed = True
        self._changed.set()

    def _stamped(self, item: Object) -> Object:
        self.version += 1
        version = str(self.version)
        return edited(item, lambda copied: copied["metadata"].update(resourceVersion=version))

    def _happened(self, kind: Kind, type_: str, item: Object, before: Object | None) -> None:
        change = Change(self.version, type_, item, before)
        history = self._history.setdefault(kind, deque())
        history.append(change)
        if len(history) > self._limit:
            self._forgotten[kind] = history.popleft().version
        for listener in self._listeners:
            listener(kind, change)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
