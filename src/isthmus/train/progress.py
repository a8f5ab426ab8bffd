"""A line for people now and then: where training stands, how fast it is, when it will be done."""

import sys
import time
from typing import TextIO

from isthmus.units import Seconds

EVERY_S = 5.0


class ProgressLine:
    """Writes to stderr (a rank's log), at most every `EVERY_S` seconds."""

    def __init__(self, site: str, stream: TextIO | None = None):
        self._site = site
        self._stream = stream or sys.stderr
        self._since_s = time.monotonic()
        self._first: tuple[float, float] | None = None
        self._tokens = 0

    def after_step(self, step: int, loss: float, tokens: int, progress: float) -> None:
        """`tokens` of this step; `progress` of the run in (0, 1]."""
        now_s = time.monotonic()
        self._tokens += tokens
        self._first = self._first or (now_s, progress)
        elapsed_s = now_s - self._since_s
        if elapsed_s < EVERY_S and progress < 1.0:
            return
        rate = self._tokens / max(elapsed_s, 1e-9)
        print(
            f"{self._site}: step {step}  loss {loss:.3f}  {rate:,.0f} tokens/s  {progress:.0%}"
            f"{self._left(now_s, progress)}",
            file=self._stream,
            flush=True,
        )
        self._since_s, self._tokens = now_s, 0

    def _left(self, now_s: float, progress: float) -> str:
        assert self._first is not None
        start_s, start = self._first
        if progress <= start or progress >= 1.0:
            return ""
        return f"  {Seconds((now_s - start_s) * (1.0 - progress) / (progress - start))} left"
