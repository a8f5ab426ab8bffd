"""Virtual time."""

import heapq
import random
from collections.abc import Callable
from typing import Any


class Timeline:
    """Clock and event queue; ties break by order of entry, so a seed gives one schedule."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.events = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when_s: float, call: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (max(when_s, self.now_s), self._count, call, args))

    def later(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self.at(self.now_s + delay_s, call, *args)

    def some(self, low_s: float, high_s: float) -> float:
        return self.random.uniform(low_s, high_s)

    def run(self, until_s: float, done: Callable[[], bool]) -> None:
        while self._queue and not done():
            when_s, _, call, args = heapq.heappop(self._queue)
            if when_s > until_s:
                return
            self.now_s = when_s
            self.events += 1
            call(*args)
