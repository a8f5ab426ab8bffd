"""Child processes with a log each: start, watch, restart with a bound, end in time."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO


@dataclass
class Child:
    """One process and how to start it again.

    Args:
        name: 'server', 'client/jinan', 'rank/jinan/0'; also names its log.
        affinity: CPU indices it may run on; empty: all that this process may use.
        max_restarts: starts after the first one.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    affinity: frozenset[int] = frozenset()
    max_restarts: int = 0
    leashed: bool = False
    """Its standard input is a pipe of ours, so that it can tell when we are gone."""
    restarts: int = 0
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0

    def start(self) -> None:
        """A session of its own, so that a Ctrl-C at the terminal reaches only the launcher."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as output:
            self.process = self._spawn(output)
        self.started_s = time.monotonic()
        if self.affinity:
            os.sched_setaffinity(self.process.pid, self.affinity)

    def _spawn(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv,
            env={**os.environ, **self.env},
            stdin=subprocess.PIPE if self.leashed else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll() if self.process else None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def restart(self) -> bool:
        """False if it has been started too often already."""
        if self.restarts >= self.max_restarts:
            return False
        self.restarts += 1
        self.start()
        return True

    def signal(self, number: signal.Signals) -> None:
        if self.alive and self.process:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Ends it now, with everything it started."""
        if self.process and self.alive:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            self.process.wait()

    def last_words(self, lines: int = 12) -> str:
        """The end of its log, for an error message."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def wait_all(children: Sequence[Child], timeout_s: float) -> list[Child]:
    """Waits for all to end; those that have not after `timeout_s` are returned."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(child.alive for child in children):
        time.sleep(0.02)
    return [child for child in children if child.alive]
