"""Two sites of unlike speed, joined over a shaped link: each probed under its own CPU quota, then trained.

The sites are probed at the same time, as they will train at the same time. Needs root, for control groups and
links; without it there is no such case.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from isthmus.journal.events import AnyEvent
from isthmus.planner.probed.joined import JoinedEstimate, predict_joined
from isthmus.planner.probed.profile import Profile
from isthmus.spec.fleet import FleetSpec, SiteSpec
from isthmus.spec.run import RunSpec
from isthmus.units import Count
from isthmus_bench.document import Result
from isthmus_bench.outer import measure
from isthmus_bench.outer.fleet import Fleet, Link
from isthmus_bench.planner.crowd import Crowd
from isthmus_bench.planner.trained import finish, read_profile, start_probe
from isthmus_bench.quota import can_use_quotas, quota

CPUS = {"fast": 0.9, "slow": 0.5}
LINK = Link(bandwidth_bps=50e6, round_trip_s=0.030)
INNER_STEPS = 20
TRAIN_S, QUICK_S = 75.0, 20.0
SKIP_STEPS = 5


class Seen(NamedTuple):
    predicted: JoinedEstimate
    step_s: dict[str, float]
    """Median of each site."""
    tokens_per_s: float
    foreign: float


def run(base: RunSpec, quick: bool) -> list[Result]:
    """Step time of each site, and tokens/s of both together, elastic and strict."""
    if not can_use_quotas():
        return []
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as name:
        profiles = probe_sites(base, Path(name))
        modes = ["elastic"] if quick else ["elastic", "strict"]
        seen = {mode: _train(_joined(base, mode), profiles, QUICK_S if quick else TRAIN_S) for mode in modes}
    results = [_step(site, seen["elastic"]) for site in CPUS]
    return results + [_rate(mode, each) for mode, each in seen.items()]


def probe_sites(run: RunSpec, folder: Path) -> dict[str, Profile]:
    """Both at once, each in its quota and on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        probes = {}
        for index, (site, share) in enumerate(CPUS.items()):
            group = stack.enter_context(quota(share))
            on_core = ["taskset", "-c", str(cores[index % len(cores)])]
            probes[site] = start_probe(run, folder / site, 1, [*group.prefix(), *on_core])
        for site, process in probes.items():
            finish(process, folder / site / "probe.log")
    return {site: read_profile(folder / site) for site in CPUS}


def _joined(base: RunSpec, mode: str) -> RunSpec:
    outer = msgspec.structs.replace(base.outer, inner_steps=INNER_STEPS, mode=mode)
    train = msgspec.structs.replace(base.train, tokens=Count(10**9))
    return msgspec.structs.replace(base, train=train, outer=outer)


def _train(run: RunSpec, profiles: dict[str, Profile], duration_s: float) -> Seen:
    fleet = FleetSpec(sites={site: SiteSpec(link=LINK.spec) for site in CPUS})
    predicted = predict_joined(fleet, run, profiles)
    with Crowd() as crowd, Fleet(run, CPUS, link=LINK) as training:
        events = training.train_on(duration_s)
        bound_s = training.bound_s
    events = [event for event in events if event.wall_s > bound_s]
    span = measure.common_span(events, list(CPUS), SKIP_STEPS)
    rate = sum(measure.step_rate(events, site, span) for site in CPUS)
    return Seen(predicted, {site: _median_s(events, site) for site in CPUS}, rate, crowd.share)


def _median_s(events: list[AnyEvent], site: str) -> float:
    return median(event.step_s - event.wait_s for event in measure.steps(events, site)[SKIP_STEPS:])


def _step(site: str, seen: Seen) -> Result:
    step = seen.predicted.steps[site]
    peers = {"predicted, ms": 1000 * step.step_s, "measured, ms": 1000 * seen.step_s[site]}
    note = (
        f"{CPUS[site]} cores; predicted interval {1000 * step.low_s:.1f} to {1000 * step.high_s:.1f} ms; "
        f"others used {seen.foreign:.0%} of the machine"
    )
    return Result(
        f"planner.real.two_sites.{site}", abs(step.step_s / seen.step_s[site] - 1), "ratio", peers, note
    )


def _rate(mode: str, seen: Seen) -> Result:
    predicted = seen.predicted.tokens_per_s
    costs = ", ".join(f"{site} {1000 * cost:.0f}" for site, cost in seen.predicted.push_s.items())
    waits = ", ".join(f"{site} {1000 * wait:.0f}" for site, wait in seen.predicted.waits_s.items())
    note = (
        f"tokens/s of both sites, H = {INNER_STEPS}; a push costs (ms) {costs}, a window's wait {waits}; "
        f"others used {seen.foreign:.0%} of the machine"
    )
    peers = {"predicted, tokens/s": predicted, "measured, tokens/s": seen.tokens_per_s}
    return Result(
        f"planner.real.two_sites.{mode}", abs(predicted / seen.tokens_per_s - 1), "ratio", peers, note
    )
