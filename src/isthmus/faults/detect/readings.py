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


class ClockSample(msgspec.Struct, frozen=True):
    """A request to another node and its answer: the four times of RFC 5905, section 8. Unix seconds."""

    sent_s: float
    """By our clock."""
    arrived_s: float
    """By theirs."""
    answered_s: float
    """By theirs."""
    returned_s: float
    """By ours."""


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    contention: float = 1.0
    """Threads that want to run per core they could run on; 1 or less: each gets one."""
    disk_free: int | None = None
    """Bytes, where checkpoints go."""
    checkpoint_bytes: int = 0
    """Of the next checkpoint, as far as the last one tells."""
    probe: DiskProbe | None = None
    """If one has come back since the last time."""
    clock: ClockSample | None = None
    """If one has come back since the last time: this node's clock against it."""


class LinkSample(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement of a link, as far as it was taken."""

    bandwidth_mbps: float | None = None
    rtt_s: float | None = None
    retransmitted: float | None = None
    """Share of what was sent."""


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
    links: dict[str, LinkSample] = {}
    """New measurements, by link."""
    heard_s: dict[str, float] = {}
    """When a word last came over a link, of those that should speak; monotonic seconds."""
