"""What a server and its standby send each other: the sending half, and a gate for what comes in."""

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from isthmus.errors import CorruptError
from isthmus.journal.store import DiskStore
from isthmus.outer.ledger import Ledger
from isthmus.outer.messages import CopiedFile, Copy, Records, copy_key, encode
from isthmus.outer.protocol.records import AnyRecord, ContributionAccepted, decode_record
from isthmus.outer.wal import Entry
from isthmus.wire.transport import Handle, Peer

BATCH_BYTES = 8 << 20
"""Of log sent at once; a single larger entry goes alone."""


def fragment_sizes(record: AnyRecord) -> dict[str, int]:
    """Transport key -> bytes of what must be at hand to store this record."""
    if not isinstance(record, ContributionAccepted):
        return {}
    return {fragment.key: fragment.size for fragment in record.contribution.fragments}


class Replication:
    """The server's side. Everything is said again until the standby reports that it has it; what is already
    on its way is not sent twice.

    Args:
        specs: name -> text of what the standby must know of the run.
    """

    def __init__(self, ledger: Ledger, specs: Mapping[str, bytes]):
        self._ledger, self._specs = ledger, dict(specs)
        self._peer: Peer | None = None
        self._handles: dict[str, Handle] = {}
        self._copy: Copy | None = None
        self._files: dict[str, np.ndarray] = {}
        self.wanted = ""
        """The number under which the standby wants a copy, if it needs one."""

    def send(self, peer: Peer, epoch: int, start: int, end: int) -> None:
        """Records from `start` on, below `end`, or a copy of the folder where that does not help."""
        if peer is not self._peer:
            self._peer, self._handles, self._copy, self._files = peer, {}, None, {}
        if start == 0 or start < self._ledger.first_entry:
            self._send_copy(peer, epoch)
            return
        self._copy, self._files = None, {}
        entries = self._ledger.entries(start, end, BATCH_BYTES)
        records = tuple(entry.record for entry in entries)
        peer.send(encode(Records(epoch=epoch, start=start, records=records)))
        self._put(peer, {key: payload for entry in entries for key, payload in _payloads(entry)})

    def _send_copy(self, peer: Peer, epoch: int) -> None:
        if self._copy is None or self._copy.number != self.wanted:
            self._files = self._ledger.files()
            files = tuple(CopiedFile(name, data.nbytes) for name, data in self._files.items())
            self._copy = Copy(epoch=epoch, number=self.wanted, files=files, specs=self._specs)
        peer.send(encode(self._copy))
        self._put(peer, {copy_key(self._copy.number, name): data for name, data in self._files.items()})

    def _put(self, peer: Peer, payloads: Mapping[str, np.ndarray]) -> None:
        for key in self._handles.keys() - payloads.keys():
            peer.cancel(key)
        handles = {key: handle for key, handle in self._handles.items() if key in payloads}
        for key, payload in payloads.items():
            handle = handles.get(key)
            if handle is None or (handle.settled and not handle.sent):
                handles[key] = peer.put(key, payload.data)
        self._handles = handles


def _payloads(entry: Entry) -> list[tuple[str, np.ndarray]]:
    return list(zip(fragment_sizes(decode_record(entry.record)), entry.payloads, strict=True))


class Gate:
    """What comes in bulk, where only what was announced is let in. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._make: Callable[[str, int], np.ndarray | None] = _in_memory
        self._here: dict[str, np.ndarray] = {}

    def expect(
        self, sizes: Mapping[str, int], make: Callable[[str, int], np.ndarray | None] | None = None
    ) -> None:
        """Only these keys from now on; what is here of them stays. `make` gives the buffers."""
        with self._lock:
            self._sizes, self._make = dict(sizes), make or _in_memory
            self._here = {key: data for key, data in self._here.items() if key in sizes}

    def allocate(self, key: str, size: int) -> np.ndarray | None:
        with self._lock:
            return self._make(key, size) if self._sizes.get(key) == size else None

    def blob(self, key: str, payload: np.ndarray) -> None:
        with self._lock:
            if key in self._sizes:
                self._here[key] = payload

    def take(self, keys: Mapping[str, int]) -> list[np.ndarray] | None:
        """The buffers of these keys; None while one is missing."""
        with self._lock:
            found = [self._here[key] for key in keys if key in self._here]
        return found if len(found) == len(keys) else None

    @property
    def complete(self) -> bool:
        """All that is expected is here."""
        with self._lock:
            return bool(self._sizes) and self._here.keys() == self._sizes.keys()


def _in_memory(key: str, size: int) -> np.ndarray | None:
    return np.empty(size, np.uint8)


class Landing:
    """Where a copy of the primary's folder comes in, file by file, straight to the disk. Any thread."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._copy: Copy | None = None
        self._current = False
        self.files = Gate()
        self.number = _number()
        """Of the next copy, or of the one that is coming in."""

    def link_up(self) -> None:
        """What came before counts once the primary names the same copy on this connection."""
        self._current = False

    def announce(self, copy: Copy) -> None:
        """From here on its files are let in. Announced again it goes on, another one takes its place."""
        if copy.number != self.number:
            return
        self._current = True
        if copy != self._copy:
            self._copy = copy
            self.files.expect({})
            shutil.rmtree(self._folder, ignore_errors=True)
            self.files.expect({copy_key(copy.number, file.name): file.size for file in copy.files}, self._map)

    def complete(self) -> Copy | None:
        """The copy, when all of it is here."""
        return self._copy if self._current and self.files.complete else None

    def replace(self, folder: Path) -> None:
        """Durably puts the copy in the place of `folder`. Killed half-way, it leaves no folder at all, and
        another copy is made. Raises StorageError.
        """
        store = DiskStore()
        for path in sorted(self._folder.rglob("*"), reverse=True):
            store.fsync(path)
        store.fsync(self._folder)
        old = folder.with_name(f"{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        self._folder.rename(folder)
        store.fsync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
        self.files.expect({})
        self._copy, self.number = None, _number()

    def _map(self, key: str, size: int) -> np.ndarray | None:
        """The file itself as a buffer, with its space on the disk taken; None where the disk has none."""
        path = self._folder / key.split("/", 2)[2]
        if self._folder not in path.parents or ".." in path.parts:
            raise CorruptError("a copied file has no place in the folder", where=key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            return None
        return np.memmap(path, np.uint8, "r+", shape=(size,))


def _number() -> str:
    return secrets.token_hex(6)
