"""What a replay needs to know of a run: machines, times of recovery, links. Seconds throughout."""

import math
from collections.abc import Iterator
from typing import Literal

import msgspec

from isthmus.errors import InputError

Mode = Literal["none", "elastic", "strict"]
"""none: one site, or a pipeline over several; any failure stops all, and work since the last checkpoint is
lost. elastic: a failed site loses its own time and its window, the others train on. strict: the others wait
at the end of their window for it."""


class LineFaults(msgspec.Struct, frozen=True, kw_only=True):
    """A site's line, and the times at which it is slow: Poisson starts, exponential lengths."""

    transfer_s: float = 0.0
    """From a push to its result. In mode none: the part of each step that is spent on this line."""
    slow_per_day: float = 0.0
    slow_s: float = 0.0
    """Mean length of a slow time."""
    slow_factor: float = 1.0
    """Transfers then take this many times as long; very large: the line is cut."""


class SiteJob(msgspec.Struct, frozen=True, kw_only=True):
    """One site's machines."""

    name: str
    nodes: int
    """In use."""
    spares: int = 0
    """Idle nodes that can take the place of any of them; they do not fail while idle."""
    mtbf_s: float
    """Of one node; of unlike nodes the harmonic mean, as their failure rates add up."""
    step_s: float
    step_tokens: int
    replica_nodes: int = 1
    """Nodes that stop with one of theirs where the site may shrink."""
    detect_s: float = 0.0
    """From a failure until the ranks are stopped."""
    restart_s: float = 0.0
    """New processes, process groups, first step."""
    read_s: float = 0.0
    """Reading the checkpoint, whole also where only its moments are needed (elastic, strict)."""
    repair_s: float = 86_400.0
    """From a node's failure until it is there as a spare."""
    checkpoint_pause_s: float = 0.0
    """What training sees of a checkpoint (Daly's delta)."""
    checkpoint_durable_s: float = 0.0
    """From the end of the pause until the checkpoint can be restored; it is written meanwhile."""
    line: LineFaults = LineFaults()

    @property
    def failures_per_s(self) -> float:
        return self.nodes / self.mtbf_s

    @property
    def recovery_s(self) -> float:
        """From a failure to the first step, a spare at hand (Daly's R)."""
        return self.detect_s + self.restart_s + self.read_s


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A run on its machines."""

    sites: list[SiteJob]
    mode: Mode = "none"
    checkpoint_every_s: float = 0.0
    """0: only at the end, so that in mode none a failure loses everything."""
    inner_steps: int = 1
    """H of the fastest site: a window, what a failure costs in the modes elastic and strict."""
    overlap_s: float | None = None
    """Training after a push behind which its transfer hides; None: the result is taken when it is there,
    and a slow line only makes pushes rarer (elastic)."""
    shrink: bool = False
    """Without a spare the site goes on with the replicas that are left, instead of standing still."""
    server_mtbf_s: float = 0.0
    """Of the parameter server; 0: it does not fail."""
    takeover_s: float = 0.0
    """From its failure until it, or a standby, serves again."""
    reserve_s: float = 0.0
    """For so long the sites train on without it."""

    @property
    def tokens_per_s(self) -> float:
        """Of a run that trains all the time."""
        return sum(site.step_tokens / self.pace_s(site) for site in self.sites)

    def pace_s(self, site: SiteJob) -> float:
        """Seconds of the site's step; where all stop together, all step together."""
        return max(each.step_s for each in self.sites) if self.mode == "none" else site.step_s

    @property
    def mtbf_s(self) -> float:
        """Of all nodes together: from one failure to the next."""
        return 1 / sum(site.failures_per_s for site in self.sites)

    @property
    def interval_s(self) -> float:
        """From one checkpoint to the next: whole steps, and no less than it takes to write one; 0: none."""
        if not self.checkpoint_every_s:
            return 0.0
        step_s = max(site.step_s for site in self.sites)
        least_s = max(self.checkpoint_every_s, *(site.checkpoint_durable_s for site in self.sites))
        return math.ceil(least_s / step_s - 1e-9) * step_s


def check_job(job: Job) -> None:
    """Raises InputError for what cannot be: no nodes, negative times, a mean time of 0."""
    if not job.sites:
        raise InputError("no sites", where="sites", hint="a job needs at least one")
    if job.inner_steps < 1:
        raise InputError(f"{job.inner_steps} inner steps", where="inner_steps", hint="at least 1")
    for where, problem, hint in _problems(job):
        raise InputError(problem, where=where, hint=hint)


def _problems(job: Job) -> Iterator[tuple[str, str, str]]:
    names = ("checkpoint_every_s", "server_mtbf_s", "takeover_s", "reserve_s")
    yield from _negative("job", {name: getattr(job, name) for name in names})
    for site in job.sites:
        where = f"site {site.name}"
        if site.nodes < 1 or site.replica_nodes < 1:
            yield where, "it has no nodes", "at least 1"
        for name in ("mtbf_s", "step_s", "step_tokens"):
            if not 0 < getattr(site, name) < math.inf:
                yield where, f"{name} of {getattr(site, name)}", "above 0, and finite"
        names = ("spares", "detect_s", "restart_s", "read_s", "repair_s")
        names = (*names, "checkpoint_pause_s", "checkpoint_durable_s")
        yield from _negative(where, {name: getattr(site, name) for name in names})
        yield from _negative(where, msgspec.structs.asdict(site.line))
        if job.mode == "none" and site.line.transfer_s > site.step_s:
            yield where, "its line takes longer than the step that contains it", "mode none: of each step"
        if site.line.slow_factor < 1:
            yield where, f"slow_factor of {site.line.slow_factor}", "a slow line takes longer: 1 or more"


def _negative(where: str, values: dict[str, float]) -> Iterator[tuple[str, str, str]]:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            yield where, f"{name} of {value}", "0 or more, and finite"
