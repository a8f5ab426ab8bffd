"""How much of the machine others used meanwhile: without it a timing cannot be judged."""

import os
import resource
import time
from pathlib import Path
from typing import Self

_BUSY = (0, 1, 2, 5, 6, 7)
"""Columns of /proc/stat: user, nice, system, irq, softirq, steal."""


class Crowd:
    """A `with` block; `share` is then the part of the machine's cores that processes of others kept busy.

    Own are this process and its children that have ended within the block, and theirs.
    """

    share = 0.0

    def __enter__(self) -> Self:
        self._start = time.monotonic(), _busy_s(), _own_s()
        return self

    def __exit__(self, *exc: object) -> None:
        start_s, busy_s, own_s = self._start
        cores_s = (time.monotonic() - start_s) * (os.cpu_count() or 1)
        foreign_s = (_busy_s() - busy_s) - (_own_s() - own_s)
        self.share = max(0.0, foreign_s / cores_s) if cores_s > 0 else 0.0


def _busy_s() -> float:
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    return sum(int(fields[column]) for column in _BUSY) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)
