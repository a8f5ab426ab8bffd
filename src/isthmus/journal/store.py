"""The disk as an argument, so that tests can put another one in its place (`memory_store`).

Every name has one writer. Bytes are durable only after `fsync`, names only after `fsync` of their folder.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from isthmus.errors import NotFoundError, StorageError

Data = bytes | bytearray | memoryview

_VECTORS = 512
"""Buffers handed to one writev; Linux takes at most 1024."""

HINTS = {
    errno.ENOSPC: "the disk is full: free some space; what was acknowledged before is safe",
    errno.EDQUOT: "the disk quota is used up: free some space; what was acknowledged before is safe",
    errno.EROFS: "the file system is read-only: choose another run folder or remount it",
    errno.EACCES: "this user may not write there: choose another run folder or change its owner",
    errno.EIO: "the device failed: check it (dmesg), then move the run folder to a good one",
}


class Store(Protocol):
    """Raises StorageError (with the remedy) where the disk refuses, NotFoundError for a missing name."""

    def append(self, path: Path, *buffers: Data) -> None:
        """Add the buffers to the end of `path`, made if need be. An error may leave a part of them."""
        ...

    def write_atomic(self, path: Path, *buffers: Data) -> None:
        """Replace `path` durably: whatever happens, a reader finds the old bytes or the new ones."""
        ...

    def read(self, path: Path, offset: int = 0, size: int | None = None) -> memoryview:
        """At most `size` bytes (None: to the end), fewer where the file ends."""
        ...

    def size(self, path: Path) -> int: ...

    def list(self, folder: Path) -> list[str]:
        """Names in `folder`, sorted, without hidden ones (temporaries, locks); [] if there is no folder."""
        ...

    def make_folder(self, folder: Path) -> None: ...

    def fsync(self, path: Path) -> None:
        """Make the bytes of a file, or the names in a folder, durable."""
        ...

    def truncate(self, path: Path, size: int) -> None: ...

    def delete(self, path: Path) -> None: ...

    def lock(self, folder: Path) -> AbstractContextManager[None]:
        """Keep other processes from writing in `folder`; freed when this process ends, however it ends."""
        ...


@contextlib.contextmanager
def _explained(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot {doing}: no such file", where=str(path)) from error
    except OSError as error:
        hint = HINTS.get(error.errno or 0, "check the disk that holds the run folder")
        raise StorageError(f"cannot {doing}: {error.strerror}", where=str(path), hint=hint) from error


def _write_all(descriptor: int, buffers: tuple[Data, ...]) -> None:
    pending = [view for view in (memoryview(buffer).cast("B") for buffer in buffers) if view.nbytes]
    start = 0
    while start < len(pending):
        written = os.writev(descriptor, pending[start : start + _VECTORS])
        while start < len(pending) and written >= pending[start].nbytes:
            written -= pending[start].nbytes
            start += 1
        if written:
            pending[start] = pending[start][written:]


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DiskStore:
    """The file system. Keeps no state of its own, so any thread may use it."""

    def append(self, path: Path, *buffers: Data) -> None:
        with _explained(path, "append"):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                _write_all(descriptor, buffers)
            finally:
                os.close(descriptor)

    def write_atomic(self, path: Path, *buffers: Data) -> None:
        self._replace(path, [buffers])

    def write_stream(self, path: Path, buffers: Iterable[Data]) -> None:
        """`write_atomic` of buffers that are made one after the other, and need not be in memory together."""
        self._replace(path, ((buffer,) for buffer in buffers))

    def _replace(self, path: Path, batches: Iterable[tuple[Data, ...]]) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        with _explained(path, "write"):
            try:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
                try:
                    for buffers in batches:
                        _write_all(descriptor, buffers)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                os.replace(temporary, path)
                _sync_path(path.parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise

    def rename(self, path: Path, target: Path) -> None:
        """Give a file or folder another name beside it, durably; an empty folder may have had that name."""
        with _explained(target, "rename to"):
            os.rename(path, target)
            _sync_path(target.parent)

    def read(self, path: Path, offset: int = 0, size: int | None = None) -> memoryview:
        with _explained(path, "read"):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                left = max(0, os.fstat(descriptor).st_size - offset)
                view = memoryview(bytearray(left if size is None else min(size, left)))
                filled = 0
                while filled < view.nbytes:
                    got = os.preadv(descriptor, [view[filled:]], offset + filled)
                    if got == 0:
                        break
                    filled += got
                return view[:filled]
            finally:
                os.close(descriptor)

    def size(self, path: Path) -> int:
        with _explained(path, "look at"):
            return path.stat().st_size

    def list(self, folder: Path) -> list[str]:
        try:
            with _explained(folder, "list"):
                return sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except NotFoundError:
            return []

    def make_folder(self, folder: Path) -> None:
        with _explained(folder, "make the folder"):
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            for path in reversed(missing):
                path.mkdir(exist_ok=True)
                _sync_path(path.parent)

    def fsync(self, path: Path) -> None:
        with _explained(path, "sync"):
            _sync_path(path)

    def truncate(self, path: Path, size: int) -> None:
        with _explained(path, "truncate"):
            os.truncate(path, size)

    def delete(self, path: Path) -> None:
        with _explained(path, "delete"):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        with _explained(folder, "lock"):
            descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StorageError(
                    "another process is writing here",
                    where=str(folder),
                    hint="stop the other one, or give this one a run folder of its own",
                ) from error
            yield
        finally:
            os.close(descriptor)
