"""What the detectors are fed with. An agent fills in what it knows; what is missing is not judged."""

import msgspec

from isthmus.faults.detect.disk_probe import DiskProbe
from isthmus.faults.view import PageView, StateHash, StepRecord


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """What the system says of a rank's process (see `process`)."""

    letter: str
    """State of its main thread as in /proc/PID/stat: R S D T t Z X."""
    cpu_s: float
    """Used since it started, all threads."""
    rss: int = 0


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    contention: float = 1.0
    """Threads that want to run per core they could run on; 1 or less: each gets one."""
    disk_free: int | None = None
    """Bytes, where checkpoints go."""
    checkpoint_bytes: int = 0
    """Of the next checkpoint, as far as the last one tells."""
    probe: DiskProbe | None = None
    """If one has come back since the last time."""


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a site's group. Pages are to be read with the `now_ns` of the look itself
    (`PageReader.read(now_ns)`), so that silences add up.
    """

    ranks: tuple[int, ...]
    """Those that should be there."""
    views: dict[int, PageView] = {}
    steps: dict[int, list[StepRecord]] = {}
    """New ones since the last look, by rank."""
    states: dict[int, list[StateHash]] = {}
    """New ones since the last look, by rank."""
    processes: dict[int, Process] = {}
    homes: dict[int, str] = {}
    """Node by rank."""
    chips: dict[int, str] = {}
    """Kind of chip by rank; empty: all are of one kind."""
    nodes: dict[str, NodeFacts] = {}

    @property
    def generation(self) -> int:
        """Of the newest group that a page is of; -1: none was read."""
        return max((view.generation for view in self.views.values()), default=-1)
