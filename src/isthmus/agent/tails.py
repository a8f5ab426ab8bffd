"""New lines of the ranks' logs and of the kernel, looked up in the catalogue as they come."""

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from isthmus.agent.diagnoser import is_weak
from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.catalogue.find import Signatures

EVERY_S = 1.0
AGAIN_S = 60.0
"""One entry on one log is told once in this time."""
_MOST = 1 << 16
"""Bytes of a log taken in one look; a log that is written faster is not read in full."""
_KERNEL = Path("/dev/kmsg")
_KMSG = re.compile(rb"^\d+,\d+,\d+,[^;]*;")


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A line that an entry describes."""

    entry: Entry
    line: str
    where: str
    rank: int | None
    """None: the kernel of the node said it."""


@dataclass
class Tails:
    """Owns a place in each log, and the kernel's messages where this user may read them."""

    signatures: Signatures
    _offsets: dict[Path, int] = field(default_factory=dict)
    _told_s: dict[tuple[Path, str], float] = field(default_factory=dict)
    _kernel: int = -1
    _due_s: float = 0.0

    def __post_init__(self) -> None:
        with contextlib.suppress(OSError):
            self._kernel = os.open(_KERNEL, os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._kernel, 0, os.SEEK_END)

    def is_due(self, now_s: float) -> bool:
        """A second has passed since the last look."""
        return now_s >= self._due_s

    def look(self, now_s: float, logs: Mapping[int, Path]) -> list[Hit]:
        """What is new since the last look; `logs` by rank."""
        self._due_s = now_s + EVERY_S
        hits = [hit for rank, path in logs.items() for hit in self._hits(path, self._new(path), rank)]
        hits += self._hits(_KERNEL, self._messages(), None)
        fresh = [hit for hit in hits if now_s >= self._told_s.get((Path(hit.where), hit.entry.id), 0.0)]
        for hit in fresh:
            self._told_s[Path(hit.where), hit.entry.id] = now_s + AGAIN_S
        return fresh

    def _hits(self, path: Path, lines: list[str], rank: int | None) -> list[Hit]:
        found: dict[str, Hit] = {}
        for line in lines:
            for entry in self.signatures.hits(line)[:1]:
                if not is_weak(entry) and entry.kind not in ("advice", "secondary"):
                    found.setdefault(
                        entry.id, Hit(entry=entry, line=line.strip(), where=str(path), rank=rank)
                    )
        return list(found.values())

    def _new(self, path: Path) -> list[str]:
        """Whole lines. A log that is seen for the first time is read from its end."""
        with contextlib.suppress(OSError), open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = self._offsets.setdefault(path, size)
            file.seek(max(start, size - _MOST))
            data = file.read(_MOST)
            whole = data.rfind(b"\n") + 1
            self._offsets[path] = file.tell() - len(data) + whole
            return data[:whole].decode(errors="replace").splitlines()
        return []

    def _messages(self) -> list[str]:
        lines: list[str] = []
        while self._kernel >= 0 and len(lines) < 1000:
            try:
                record = os.read(self._kernel, 8192)
            except BlockingIOError:
                break
            except OSError:  # overwritten before we came: go on with the next
                continue
            lines.append(_KMSG.sub(b"", record).split(b"\n")[0].decode(errors="replace"))
        return lines

    def close(self) -> None:
        if self._kernel >= 0:
            os.close(self._kernel)
