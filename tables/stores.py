"""The local store of one changelog partition: read and written past Faust's detours.

Faust's stores look a key up in all partitions when no event says which, and write one key at a time. Here a write is
one batch with the persisted offset in it: after a crash the store holds all of it or nothing, and the offset is never
ahead of the data.

A store that is corrupted is thrown away where it is opened, and read again from its changelog, which is the truth.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import structlog
from faust.stores import memory, rocksdb
from faust.types import TP, StoreT
from rocksdict import Rdict, ReadOptions, WriteBatch, WriteOptions

log = structlog.get_logger(__name__)

#: Faust's own are made for one database: 192 MB of write buffers and 2 GiB of cache, for each partition. Ours is read
#: at a start only, and a restore is as fast with small buffers.
ROCKSDB_OPTIONS: Mapping[str, int] = {
    "write_buffer_size": 2 * 1024 * 1024,
    "max_write_buffer_number": 2,
    "block_cache_size": 8 * 1024 * 1024,
}


_UNLOGGED = WriteOptions()
_UNLOGGED.disable_wal = True  # type: ignore[method-assign,assignment]  # a property; their stub is wrong


#: Left beside the files of a store that opens and cannot be read whole; whoever opens it next throws it away.
_CORRUPTED = "CORRUPTED"


class RocksStore(rocksdb.Store):
    """Faust's store, that begins anew where what is on the disk is corrupted."""

    def note_corrupted(self, partition: int, error: Exception) -> None:
        """Have a partition's store thrown away when it is opened next, if it is corrupted; what is open stays so."""
        if _is_corruption(error):
            (self.partition_path(partition) / _CORRUPTED).write_text(str(error))

    def _open_for_partition(self, partition: int) -> Any:
        noted = self.partition_path(partition) / _CORRUPTED
        if noted.exists():
            self._drop(partition, noted.read_text())
        try:
            return self._open(partition)
        except Exception as error:
            if not _is_corruption(error):
                raise
            self._drop(partition, str(error))
        return self._open(partition)

    def _open(self, partition: int) -> Any:
        """Open what is there, and look up what is asked first: files are read only when something in them is."""
        db = super()._open_for_partition(partition)
        try:
            db.get(self.offset_key)
        except Exception:
            db.close()
            raise
        return db

    def _drop(self, partition: int, error: str) -> None:
        path = self.partition_path(partition)
        shutil.rmtree(path)
        log.warning("store_dropped", table=self.table_name, partition=partition, path=str(path), error=error)


def _is_corruption(error: Exception) -> bool:
    """Say whether RocksDB finds its own files wrong; rocksdict raises plain Exceptions, whose text begins so."""
    return str(error).startswith("Corruption")


class PartitionStore(Protocol):
    """What is stored locally of one changelog partition."""

    def get(self, key: bytes) -> bytes | None:
        """Look a key up."""

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        """Go through all keys and values as they are at the call, whatever is written meanwhile."""

    def is_empty(self) -> bool:
        """Return whether it holds no key."""

    def persisted_offset(self) -> int | None:
        """Return up to which changelog offset, included, it holds the changelog; None for not at all."""

    def write(self, changes: Mapping[bytes, bytes | None], *, persisted: int | None) -> None:
        """Store values, drop keys of None, and move the persisted offset, all or nothing."""

    def write_restored(self, changes: Mapping[bytes, bytes | None], *, persisted: int) -> None:
        """Do the same with what can be read again: a crash may take it back, from the last write on to any before."""

    def flush(self) -> None:
        """Put on disk what `write_restored` wrote; to be called before the next `write`."""


class RocksPartition:
    """A partition's own RocksDB."""

    def __init__(self, store: RocksStore, tp: TP) -> None:
        self._db = cast("Rdict", store._db_for_partition(tp.partition))  # noqa: SLF001  opened by Faust at assignment
        self._offset_key = store.offset_key
        self._store, self._partition = store, tp.partition

    def get(self, key: bytes) -> bytes | None:
        """Look a key up; raises Exception where the store is corrupted."""
        try:
            return cast("bytes | None", self._db.get(key))
        except Exception as error:
            self._store.note_corrupted(self._partition, error)
            raise

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        """Go through all keys and values, in the order of the keys; raises Exception where the store is corrupted."""
        reading = ReadOptions()
        reading.fill_cache(False)  # type: ignore[call-arg]  # noqa: FBT003  everything is read once; their stub is wrong
        return self._all_of(cast("Iterator[tuple[bytes, bytes]]", self._db.items(read_opt=reading)))

    def _all_of(self, items: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        last = None
        for key, value in items:
            last = key
            if key != self._offset_key:
                yield key, value
        try:
            self._check_end(last)
        except Exception as error:
            self._store.note_corrupted(self._partition, error)
            raise

    def _check_end(self, last: bytes | None) -> None:
        """Raise where the store goes on behind the last key: rocksdict's items end without a word at a bad block."""
        place = self._db.iter()
        if last is None:
            place.seek_to_first()
        else:
            place.seek(last)
            if place.valid():
                place.next()
        place.status()

    def is_empty(self) -> bool:
        """Return whether it holds no key."""
        return next(iter(self.items()), None) is None

    def persisted_offset(self) -> int | None:
        """Return the offset of the last write that had one."""
        offset = self.get(self._offset_key)
        return None if offset is None else int(offset)

    def write(self, changes: Mapping[bytes, bytes | None], *, persisted: int | None) -> None:
        """Write one batch to the write-ahead log and the memtable."""
        self._db.write(self._batch_of(changes, persisted))

    def write_restored(self, changes: Mapping[bytes, bytes | None], *, persisted: int) -> None:
        """Write one batch to the memtable alone: two thirds of what a write costs are its log's.

        A write that is in the log while one before it is not would have the offset lie after a crash: so flush first.
        """
        self._db.write(self._batch_of(changes, persisted), _UNLOGGED)

    def flush(self) -> None:
        """Write the memtable to a file."""
        self._db.flush()

    def _batch_of(self, changes: Mapping[bytes, bytes | None], persisted: int | None) -> WriteBatch:
        batch = WriteBatch(raw_mode=True)
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        if persisted is not None:
            batch.put(self._offset_key, str(persisted).encode())
        return batch


class MemoryPartition:
    """A partition's keys in Faust's store of all of them; nothing is persisted."""

    def __init__(self, store: "memory.Store[bytes, bytes]", tp: TP) -> None:
        self._data = store.data
        self._partition_of_key = store._key_partition  # noqa: SLF001  what Faust drops revoked keys by
        self._partition = tp.partition

    def get(self, key: bytes) -> bytes | None:
        """Look a key up."""
        return cast("bytes | None", self._data.get(key))

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        """Go through all keys and values of this partition, as they are now."""
        owners = self._partition_of_key
        return [(key, value) for key, value in self._data.items() if owners.get(key) == self._partition]

    def is_empty(self) -> bool:
        """Return whether it holds no key."""
        return next(iter(self.items()), None) is None

    def persisted_offset(self) -> int | None:
        """Nothing outlives the process."""
        return None

    def write(self, changes: Mapping[bytes, bytes | None], *, persisted: int | None) -> None:  # noqa: ARG002
        """Change the dictionary."""
        for key, value in changes.items():
            if value is None:
                self._data.pop(key, None)
                self._partition_of_key.pop(key, None)
            else:
                self._data[key] = value
                self._partition_of_key[key] = self._partition

    def write_restored(self, changes: Mapping[bytes, bytes | None], *, persisted: int) -> None:
        """Change the dictionary."""
        self.write(changes, persisted=persisted)

    def flush(self) -> None:
        """Do nothing: there is no disk."""


def partition_store(store: StoreT[Any, Any], tp: TP) -> PartitionStore:
    """Open what a Faust store holds of a changelog partition that is assigned."""
    if isinstance(store, RocksStore):
        return RocksPartition(store, tp)
    return MemoryPartition(cast("memory.Store[bytes, bytes]", store), tp)
