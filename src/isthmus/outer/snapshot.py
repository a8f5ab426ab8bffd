"""Snapshots of the server: its numbers and the protocol's state as they were after some entry of the log.

A snapshot is one file per fragment (master, momentum, published, acc if it is in use; f32) and then a
manifest with their checksums. Without its manifest it does not exist, so a save that fails or is killed
harms no earlier one.
"""

import contextlib
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import xxhash

from isthmus.errors import CorruptError, NotFoundError, StorageError
from isthmus.journal.store import Store
from isthmus.outer.layout import Layout
from isthmus.outer.merge import MasterState

_CHECK_BYTES = 16


class _File(msgspec.Struct, frozen=True):
    name: str
    size: int
    check: str


class _Manifest(msgspec.Struct, frozen=True):
    version: int
    entry: int
    log_from: int
    progress: float
    usual_tokens: float
    touched: list[bool]
    hash: str
    layout: Layout
    files: list[_File]
    protocol: bytes


class Loaded(NamedTuple):
    state: MasterState
    protocol: bytes
    entry: int
    """Index of the last log entry that is in it; replay the log after this one."""
    skipped: list[str]
    """Newer snapshots that are damaged, and how."""


class Snapshots:
    """Keeps the last `keep` snapshots in a folder that is theirs alone. One writer."""

    def __init__(self, store: Store, folder: Path, keep: int = 3):
        self._store, self._folder, self._keep = store, folder, keep
        store.make_folder(folder)

    def save(self, state: MasterState, protocol: bytes, entry: int, log_from: int | None = None) -> int:
        """Save the state after log entry `entry` (-1: before the first); durable on return.

        `log_from` is the first log entry that this snapshot needs (by default the next): lower if it speaks
        of payloads that are still to be merged. Returns the lowest of all snapshots kept: what lies below
        may go. Raises StorageError; earlier snapshots are as they were.
        """
        self._sweep()
        number = max(self._numbers(), default=0) + 1
        try:
            files = [self._save_fragment(state, number, index) for index in range(len(state.master))]
            manifest = _Manifest(
                version=state.version,
                entry=entry,
                log_from=entry + 1 if log_from is None else log_from,
                progress=state.progress,
                usual_tokens=state.usual_tokens,
                touched=state.touched.tolist(),
                hash=state.hash,
                layout=state.layout,
                files=files,
                protocol=protocol,
            )
            body = msgspec.json.encode(manifest)
            check = xxhash.xxh3_64_hexdigest(body).encode()
            self._store.write_atomic(self._manifest(number), check, b"\n", body)
        except StorageError:
            with contextlib.suppress(StorageError):
                self._sweep()
            raise
        return self._drop_old()

    def load(self) -> Loaded | None:
        """The newest snapshot that is whole; None if there never was one.

        Raises CorruptError if there are some and none is whole.
        """
        skipped: list[str] = []
        for number in reversed(self._numbers()):
            try:
                return self._load(number, skipped)
            except (CorruptError, NotFoundError) as error:
                skipped.append(f"{error.where}: {error.message}")
        if skipped:
            raise CorruptError(
                "no snapshot is whole: " + "; ".join(skipped),
                where=str(self._folder),
                hint="restore the folder from a copy, or start from a standby or from a site's checkpoint",
            )
        return None

    def newest(self) -> tuple[list[Path], int]:
        """Files of the newest snapshot, its manifest last, and the first log entry it needs."""
        number = max(self._numbers())
        manifest = self._read_manifest(number)
        files = [self._folder / file.name for file in manifest.files]
        return [*files, self._manifest(number)], manifest.log_from

    def _save_fragment(self, state: MasterState, number: int, index: int) -> _File:
        arrays = [state.master[index], state.momentum[index], state.published[index]]
        if state.touched.any():
            arrays.append(state.waiting[index])
        buffers = [array.data.cast("B") for array in arrays]
        digest = xxhash.xxh3_64()
        for buffer in buffers:
            digest.update(buffer)
        name = f"{number:08d}-fragment-{index:04d}"
        self._store.write_atomic(self._folder / name, *buffers)
        return _File(name, sum(buffer.nbytes for buffer in buffers), digest.hexdigest())

    def _load(self, number: int, skipped: list[str]) -> Loaded:
        manifest = self._read_manifest(number)
        vectors = [self._load_fragment(file) for file in manifest.files]
        in_use = 4 if any(manifest.touched) else 3
        parts = [vector.reshape(in_use, -1) for vector in vectors]
        state = MasterState(manifest.layout, [part[0] for part in parts])
        state.momentum = [part[1] for part in parts]
        state.published = [part[2] for part in parts]
        if in_use == 4:
            state.waiting = [part[3] for part in parts]
        state.version, state.progress = manifest.version, manifest.progress
        state.usual_tokens = manifest.usual_tokens
        state.touched[:] = manifest.touched
        if state.hash != manifest.hash:
            raise CorruptError(
                "the published parameters have another hash", where=str(self._manifest(number))
            )
        return Loaded(state, manifest.protocol, manifest.entry, skipped)

    def _load_fragment(self, file: _File) -> np.ndarray:
        path = self._folder / file.name
        data = self._store.read(path)
        if data.nbytes != file.size or xxhash.xxh3_64_hexdigest(data) != file.check:
            raise CorruptError("does not match its checksum", where=str(path))
        vector = np.frombuffer(data, np.float32)
        return vector if vector.flags.writeable else vector.copy()

    def _read_manifest(self, number: int) -> _Manifest:
        path = self._manifest(number)
        data = bytes(self._store.read(path))
        check, body = data[:_CHECK_BYTES], data[_CHECK_BYTES + 1 :]
        if xxhash.xxh3_64_hexdigest(body).encode() != check:
            raise CorruptError("does not match its checksum", where=str(path))
        try:
            return msgspec.json.decode(body, type=_Manifest)
        except msgspec.MsgspecError as error:
            raise CorruptError(f"written by another version: {error}", where=str(path)) from error

    def _manifest(self, number: int) -> Path:
        return self._folder / f"{number:08d}-manifest"

    def _numbers(self) -> list[int]:
        """Snapshots with a manifest, oldest first."""
        names = self._store.list(self._folder)
        return [int(name.split("-")[0]) for name in names if name.endswith("-manifest")]

    def _drop_old(self) -> int:
        """Returns the lowest `log_from` among those kept. Damaged ones do not count as kept."""
        log_from = {}
        for number in self._numbers():
            with contextlib.suppress(CorruptError):
                log_from[number] = self._read_manifest(number).log_from
        kept = sorted(log_from)[-self._keep :]
        for number in self._numbers():
            if number not in kept:
                self._store.delete(self._manifest(number))
        self._store.fsync(self._folder)
        self._sweep()
        return min(log_from[number] for number in kept)

    def _sweep(self) -> None:
        """Delete fragments that belong to no manifest."""
        known = {f"{number:08d}" for number in self._numbers()}
        for name in self._store.list(self._folder):
            if name.split("-")[0] not in known:
                self._store.delete(self._folder / name)
