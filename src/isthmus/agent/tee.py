"""The output of some ranks, from their logs to the terminal."""

import sys
from collections.abc import Mapping
from pathlib import Path

CHUNK = 1 << 20


class Tee:
    """What the logs hold already is not shown again.

    Args:
        logs: by rank. Where there are several, each line begins with its rank.
    """

    def __init__(self, logs: Mapping[int, Path]):
        self._logs = dict(logs)
        self._offsets = {rank: path.stat().st_size if path.exists() else 0 for rank, path in logs.items()}
        self._rest = dict.fromkeys(logs, b"")

    def look(self) -> None:
        """Shows the lines that are new and whole."""
        for rank, path in self._logs.items():
            if path.exists() and path.stat().st_size > self._offsets[rank]:
                self._show(rank, path)
        sys.stdout.flush()

    def _show(self, rank: int, path: Path) -> None:
        with open(path, "rb") as file:
            file.seek(self._offsets[rank])
            data = file.read(CHUNK)
        self._offsets[rank] += len(data)
        *lines, self._rest[rank] = (self._rest[rank] + data).split(b"\n")
        mark = f"[rank {rank}] " if len(self._logs) > 1 else ""
        for line in lines:
            sys.stdout.write(f"{mark}{line.decode(errors='replace')}\n")
