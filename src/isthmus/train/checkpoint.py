"""Checkpoints of one site that survive kill -9 and power loss at any instant, and a full or failing disk.

Each is two files in the site's `checkpoints/` folder: `step-000000120-<hash>.safetensors` with parameters and
moments, and then `step-000000120.json`, the manifest, which names it with size and checksum. Both are written
aside, synced and renamed; without a manifest there is no checkpoint. Deleting goes the other way round.
The manifest carries a checksum of itself too, so that no flipped bit passes for another state of training.
No torch here.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from isthmus.errors import CorruptError, IsthmusError, NotFoundError
from isthmus.journal.store import DiskStore, Store
from isthmus.spec.model import ModelSpec
from isthmus.weights.tensorfile import Arrays, pack, unpack

CHECKPOINTS = "checkpoints"
"""Their folder in a site's own."""

_MANIFEST, _TENSORS = ".json", ".safetensors"
_PARAMETER, _MOMENT = "model.", "optimizer."


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Where training stood. `feed` is the feed's own state, see `Feed.state`."""

    step: int
    tokens: int
    progress: float
    version: int
    model: ModelSpec
    data: str
    """Fingerprint of the data set."""
    feed: dict[str, int | float | str] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    facts: Facts
    file: str
    """Name of the tensor file. Part of it is the checksum, so that no file overwrites another."""
    size: int
    xxh3: str
    """XXH3-128 of the tensor file, hexadecimal."""
    format: int = 2


class Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a manifest's file holds. Those of format 1 held the manifest alone; no damage makes one of these
    look like one of those.
    """

    manifest: msgspec.Raw
    seal: str
    """XXH3-128 of the manifest's bytes, hexadecimal."""


@dataclass(frozen=True)
class Checkpoint:
    facts: Facts
    path: Path
    """Of the tensor file."""
    parameters: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that could not be used."""

    path: Path
    reason: str


def write_checkpoint(store: Store, folder: Path, facts: Facts, parameters: Arrays, moments: Arrays) -> Path:
    """Make a checkpoint durable; returns its tensor file. Raises StorageError, leaving earlier ones alone."""
    named = {_PARAMETER + name: array for name, array in parameters.items()}
    named |= {_MOMENT + name: array for name, array in moments.items()}
    buffers = pack(named)
    digest = xxhash.xxh3_128()
    for buffer in buffers:
        digest.update(buffer)
    checksum = digest.hexdigest()
    manifest = Manifest(
        facts=facts,
        file=f"{_stem(facts)}-{checksum[:8]}{_TENSORS}",
        size=sum(buffer.nbytes for buffer in buffers),
        xxh3=checksum,
    )
    store.make_folder(folder)
    store.write_atomic(folder / manifest.file, *buffers)
    store.write_atomic(folder / f"{_stem(facts)}{_MANIFEST}", _seal(manifest))
    return folder / manifest.file


def _seal(manifest: Manifest) -> bytes:
    body = msgspec.json.encode(manifest)
    return msgspec.json.encode(Sealed(manifest=msgspec.Raw(body), seal=xxhash.xxh3_128_hexdigest(body)))


def _stem(facts: Facts) -> str:
    return f"step-{facts.step:09d}"


def prune(store: Store, folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and tensor files that belong to none."""
    manifests = _manifests(store, folder)
    for name in manifests[:-keep]:
        store.delete(folder / name)
    if len(manifests) > keep:
        store.fsync(folder)
    files = set[str]()
    for name in manifests[-keep:]:
        try:
            files.add(_read_manifest(store, folder / name).file)
        except CorruptError:
            return
    for name in store.list(folder):
        if name.endswith(_TENSORS) and name not in files:
            store.delete(folder / name)


def newest_step(store: Store, folder: Path) -> int:
    """What the manifests that can be read promise, whether or not their tensors are sound; -1: none can."""
    steps = [-1]
    for name in _manifests(store, folder):
        with contextlib.suppress(IsthmusError):
            steps.append(_read_manifest(store, folder / name).facts.step)
    return max(steps)


def drop_after(store: Store, folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps for good: the run goes back to before. Leaves damaged ones."""
    dropped = False
    for name in _manifests(store, folder):
        with contextlib.suppress(CorruptError):
            if _read_manifest(store, folder / name).facts.step > step:
                store.delete(folder / name)
                dropped = True
    if dropped:
        store.fsync(folder)


def _manifests(store: Store, folder: Path) -> list[str]:
    return [name for name in store.list(folder) if name.startswith("step-") and name.endswith(_MANIFEST)]


def _read_manifest(store: Store, path: Path) -> Manifest:
    try:
        text = bytes(store.read(path))
        try:
            sealed = msgspec.json.decode(text, type=Sealed)
        except msgspec.ValidationError:
            return msgspec.json.decode(text, type=Manifest)  # of format 1
        if xxhash.xxh3_128_hexdigest(bytes(sealed.manifest)) != sealed.seal:
            raise CorruptError("the manifest does not match its checksum", where=str(path))
        return msgspec.json.decode(sealed.manifest, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptError(f"the manifest is damaged: {error}", where=str(path)) from error


def read_checkpoint(store: Store, manifest_path: Path) -> Checkpoint:
    """Raises CorruptError if anything differs from what was written."""
    return _read_tensors(store, manifest_path, _read_manifest(store, manifest_path))


def _read_tensors(store: Store, manifest_path: Path, manifest: Manifest) -> Checkpoint:
    where = str(manifest_path)
    path = manifest_path.parent / manifest.file
    try:
        file = store.read(path)
    except NotFoundError as error:
        raise CorruptError("the tensor file is missing", where=where) from error
    if file.nbytes != manifest.size:
        raise CorruptError(f"the tensor file has {file.nbytes} bytes, not {manifest.size}", where=where)
    if xxhash.xxh3_128_hexdigest(file) != manifest.xxh3:
        raise CorruptError("the tensor file does not match its checksum", where=where)
    arrays = unpack(file, where)
    parameters = {n.removeprefix(_PARAMETER): a for n, a in arrays.items() if n.startswith(_PARAMETER)}
    moments = {n.removeprefix(_MOMENT): a for n, a in arrays.items() if n.startswith(_MOMENT)}
    return Checkpoint(manifest.facts, path, parameters, moments)


def load_newest(store: Store, folder: Path) -> tuple[Checkpoint | None, list[Skipped]]:
    """The newest checkpoint that is sound, and those that are not and may have been newer, with the reason.

    How new one is, its manifest says, not the name of the file: files may have been exchanged.
    """
    unread, skipped = list[Skipped](), list[Skipped]()
    manifests: list[tuple[int, str, Manifest]] = []
    for name in reversed(_manifests(store, folder)):
        try:
            manifest = _read_manifest(store, folder / name)
            manifests.append((manifest.facts.step, name, manifest))
        except IsthmusError as error:
            unread.append(Skipped(folder / name, error.message))
    for _, name, manifest in sorted(manifests, key=lambda entry: entry[:2], reverse=True):
        try:
            found = _read_tensors(store, folder / name, manifest)
        except IsthmusError as error:
            skipped.append(Skipped(folder / name, error.message))
            continue
        own = f"{_stem(found.facts)}{_MANIFEST}"
        return found, [skip for skip in unread if skip.path.name >= own] + skipped
    return None, unread + skipped


@dataclass(frozen=True)
class Saved:
    """What became of a save: `path`, or the error that prevented it."""

    facts: Facts
    path: Path
    duration_s: float
    error: IsthmusError | None


class CheckpointWriter:
    """Writes in a thread, from a copy, so that training goes on. One save at a time.

    Args:
        keep: checkpoints to leave on the disk.
        told: called from the thread after each save, good or failed.
    """

    def __init__(self, folder: Path, keep: int, told: Callable[[Saved], None], *, store: Store | None = None):
        self._folder, self._keep, self._told = folder, keep, told
        self._store = store or DiskStore()
        self._copies: dict[str, np.ndarray] = {}
        for left in folder.glob(".step-*.tmp"):  # of a process that was killed as it wrote
            with contextlib.suppress(OSError):
                left.unlink()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def save(self, facts: Facts, parameters: Arrays, moments: Arrays) -> bool:
        """Copy the arrays and start writing. False, and nothing done, while the last save is not finished."""
        if self.busy:
            return False
        copies = self._copy("p.", parameters), self._copy("m.", moments)
        self._thread = threading.Thread(
            target=self._write, args=(facts, *copies), name="checkpoint", daemon=True
        )
        self._thread.start()
        return True

    def wait(self, timeout_s: float) -> bool:
        """True once nothing is being written; False if that takes longer."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.busy

    def _copy(self, prefix: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """The buffers are kept for the next save: fresh memory would cost more than the copy."""
        for name, array in arrays.items():
            buffer = self._copies.setdefault(prefix + name, np.empty_like(array, order="C"))
            np.copyto(buffer, array)
        return {name: self._copies[prefix + name] for name in arrays}

    def _write(self, facts: Facts, parameters: Arrays, moments: Arrays) -> None:
        start = time.monotonic()
        error: IsthmusError | None = None
        path = self._folder
        try:
            path = write_checkpoint(self._store, self._folder, facts, parameters, moments)
            prune(self._store, self._folder, self._keep)
        except IsthmusError as problem:
            error = problem
        except Exception as problem:
            error = IsthmusError(f"{type(problem).__name__}: {problem}", where=str(self._folder))
        self._told(Saved(facts, path, time.monotonic() - start, error))
