"""What a site did since its last push: what the next one will report."""

from collections.abc import Iterable

import msgspec

from isthmus.outer.ranges import Range, normal


class Window(msgspec.Struct):
    steps: int = 0
    tokens: int = 0
    busy_s: float = 0.0
    samples: list[Range] = []
    group_tokens: list[int] = []

    def add_samples(self, samples: Iterable[Range]) -> None:
        self.samples = list(normal([*self.samples, *samples]))

    def add_groups(self, group_tokens: Iterable[int]) -> None:
        counts = list(group_tokens)
        old = self.group_tokens or [0] * len(counts)
        self.group_tokens = [a + b for a, b in zip(old, counts, strict=True)]
