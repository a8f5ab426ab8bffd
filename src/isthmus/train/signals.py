"""How a rank is asked to leave: SIGTERM, SIGINT (Ctrl-C), or SIGUSR1 (Slurm's `--signal`, a spot market's
notice).

The first one lets the running step finish, then the site checkpoints, hands in its work and leaves. The
second one ends the process at once, as the signal itself would.
"""

import os
import signal
import time
from types import FrameType

GRACE_S = 25.0
"""From the first signal to being gone. Slurm and Kubernetes kill after 30 s where nothing else is set."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Leave:
    """A context manager that holds the signal handlers, in the main thread; outside it nothing is changed."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._before: dict[signal.Signals, object] = {}
        self.reason = ""

    @property
    def asked(self) -> bool:
        return self._since_s is not None

    @property
    def remaining_s(self) -> float:
        """Of the time to leave in; all of it while nobody asked."""
        return GRACE_S if self._since_s is None else max(0.0, self._since_s + GRACE_S - time.monotonic())

    def ask(self, reason: str) -> None:
        """As the first signal does; asking again changes nothing."""
        if self._since_s is None:
            self._since_s = time.monotonic()
            self.reason = reason

    def __enter__(self) -> "Leave":
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(128 + number)
        self.ask(signal.Signals(number).name)
