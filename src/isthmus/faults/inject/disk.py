"""A disk that can be full: what a rank writes its checkpoints through."""

import errno
from pathlib import Path

from isthmus.errors import StorageError
from isthmus.journal.store import HINTS, Data, DiskStore


class FullDisk(DiskStore):
    """The file system, until `fail` is called."""

    def __init__(self) -> None:
        self._refusals = 0

    def fail(self, writes: int) -> None:
        """So many writes from now on find no space."""
        self._refusals += writes

    def write_atomic(self, path: Path, *buffers: Data) -> None:
        if self._refusals > 0:
            self._refusals -= 1
            raise StorageError(
                "cannot write: No space left on device", where=str(path), hint=HINTS[errno.ENOSPC]
            )
        super().write_atomic(path, *buffers)
