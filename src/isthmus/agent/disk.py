"""Whether the disk of a site keeps what is written, asked now and then."""

import contextlib
import os
import threading
from pathlib import Path
from queue import Empty, SimpleQueue

from isthmus.faults.detect.disk_probe import DiskProbe, probe_disk
from isthmus.faults.inject.files import newest

EVERY_S = 30.0


class DiskLooks:
    """Looks at a disk in a thread of its own, since one that hangs may hold up nobody else.

    Args:
        folder: the site's, with its checkpoints.
        now_s: monotonic; the first look is `EVERY_S` later.
    """

    def __init__(self, folder: Path, now_s: float):
        self._folder, self._due_s = folder, now_s + EVERY_S
        self._answers: SimpleQueue[tuple[DiskProbe, int, int | None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.checkpoint_bytes = 0
        """Of the newest checkpoint, as it was at the last look."""
        self.free_bytes: int | None = None
        """The same of what is free; None: not known."""

    def take(self, now_s: float) -> DiskProbe | None:
        """The probe that has come back since the last call; begins another one if it is time."""
        probe = None
        with contextlib.suppress(Empty):
            probe, self.checkpoint_bytes, self.free_bytes = self._answers.get_nowait()
        if now_s >= self._due_s and not (self._thread and self._thread.is_alive()):
            self._due_s = now_s + EVERY_S
            self._thread = threading.Thread(target=self._look, name="disk-probe", daemon=True)
            self._thread.start()
        return probe

    def _look(self) -> None:
        probe, checkpoint = probe_disk(self._folder), _checkpoint_bytes(self._folder / "checkpoints")
        self._answers.put((probe, checkpoint, _free_bytes(self._folder)))


def _free_bytes(folder: Path) -> int | None:
    with contextlib.suppress(OSError):
        about = os.statvfs(folder)
        return about.f_bavail * about.f_frsize
    return None


def _checkpoint_bytes(checkpoints: Path) -> int:
    try:
        path = newest(checkpoints)
        return path.stat().st_size if path else 0
    except OSError:  # pruned meanwhile, or the disk fails, which the probe tells
        return 0
