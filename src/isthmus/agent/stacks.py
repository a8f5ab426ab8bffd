"""What a rank was doing when it stopped getting on: its stacks, read from outside before it is killed."""

import subprocess
import sys
from pathlib import Path

LIMIT_S = 2.0
"""A stopped process, or one that holds its interpreter lock, is read like any other; that takes 0.3 s."""


class Stacks:
    """Writes a file per suspicion into the run's logs.

    Args:
        logs: the run's folder of them.
    """

    def __init__(self, logs: Path, site: str):
        self._logs, self._site = logs, site

    def take(self, rank: int, pid: int, generation: int) -> Path | None:
        """The file; None where the system does not let us look (ptrace)."""
        path = self._logs / f"stack-{self._site}-{rank}-{generation}.txt"
        try:
            told = subprocess.run(
                [str(Path(sys.executable).with_name("py-spy")), "dump", "--pid", str(pid)],
                capture_output=True,
                timeout=LIMIT_S,
                check=True,
            )
            path.write_bytes(told.stdout)
        except (OSError, subprocess.SubprocessError):
            return None
        return path
