"""How long a plan takes, and how far it is from its bound: fresh processes, one core.

Seconds are of CPU time, which on a core of one's own is what the clock shows; on a busy machine the clock
shows more (told beside). Compiled loops come from numba's cache on disk; with an empty one they are compiled.
"""

import os
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import msgspec

from isthmus.errors import CheckFailedError
from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, SiteSpec
from isthmus.spec.presets import presets
from isthmus.spec.run import DataSpec, RunSpec, TrainSpec
from isthmus.units import Bandwidth, Count, Seconds
from isthmus_bench.document import Result
from isthmus_bench.planner.scale_process import Planned

SEQ_LEN = 8192
TIMEOUT_S = 300


class Case(NamedTuple):
    fleet: FleetSpec
    run: RunSpec


def site(**nodes: int) -> SiteSpec:
    """`nodes`: chip -> how many machines of eight."""
    return SiteSpec(
        nodes=[NodeSpec(count=count, chips={chip: 8}) for chip, count in nodes.items()],
        link=LinkSpec(bandwidth=Bandwidth(100e9), delay=Seconds(0.03)),
    )


def job(model: str, batch: int) -> RunSpec:
    return RunSpec(
        model=presets[model],
        data=DataSpec(seq_len=SEQ_LEN),
        train=TrainSpec(batch_size=batch, tokens=Count(10**12)),
    )


LARGE = FleetSpec(
    sites={"a": site(a800=500, h800=250), "b": site(ascend910b=1000), "c": site(h20=500)},
)
"""18,000 chips of four types at three sites."""
MEDIUM = FleetSpec(sites={"a": site(a800=32, h800=32)})
"""512 chips of two types."""
LARGE_BATCHES = (8192, 12_288, 16_384)
CASES = {f"large-{batch}": Case(LARGE, job("skywork-moe-146b", batch)) for batch in LARGE_BATCHES} | {
    "medium-moe": Case(MEDIUM, job("skywork-moe-146b", 1024)),
    "medium-dense": Case(MEDIUM, job("llama-3-70b", 1024)),
}
RIVALS = {"Sailor, 512 GPUs of 2 types (as published)": 17.4, "FlashFlex": 223.0, "AMP": 86.0}


class Timed(NamedTuple):
    planned: Planned
    wall_s: float
    """Of the process."""


def run(quick: bool) -> list[Result]:
    """A minute."""
    large = [f"large-{batch}" for batch in (LARGE_BATCHES[:1] if quick else LARGE_BATCHES)]
    medium = ["medium-moe", "medium-dense"]
    with tempfile.TemporaryDirectory() as cache:
        empty = plan(large[0], cache)
        timed = {name: plan(name, cache) for name in [*large, *medium]}
    return [seconds({name: timed[name] for name in large}, empty), gap(timed, large), small(timed, medium)]


def seconds(timed: dict[str, Timed], empty: Timed) -> Result:
    note = "; ".join(
        f"{name}: {each.planned.cpu_s:.2f} s, by the clock {each.wall_s:.2f} s"
        for name, each in timed.items()
    )
    return Result(
        "planner.scale.seconds",
        max(each.planned.cpu_s for each in timed.values()),
        "s",
        {"with an empty compile cache": empty.planned.cpu_s},
        f"{_size(timed)}, whole process on one core: {note}",
    )


def gap(timed: dict[str, Timed], large: list[str]) -> Result:
    others = ", ".join(f"{name} {each.planned.gap:.4f}" for name, each in timed.items() if name not in large)
    note = "; ".join(
        f"{name}: step {timed[name].planned.step_s:.2f} s, gap {timed[name].planned.gap:.4f}, "
        f"{timed[name].planned.templates} kinds of pipeline on {timed[name].planned.chips} chips"
        for name in large
    )
    worst = max(timed[name].planned.gap for name in large)
    return Result("planner.scale.gap", worst, "ratio", {}, f"to the lower bound; {note}; {others}")


def small(timed: dict[str, Timed], medium: list[str]) -> Result:
    note = "; ".join(
        f"{name}: {timed[name].planned.search_cpu_s:.2f} s, by the clock {timed[name].planned.search_s:.2f} s"
        for name in medium
    )
    return Result(
        "planner.scale.512",
        max(timed[name].planned.search_cpu_s for name in medium),
        "s",
        RIVALS,
        f"512 chips of two types, fresh process, without Python's start and imports: {note}",
    )


def _size(timed: dict[str, Timed]) -> str:
    chips = sum(node.count * 8 for each in LARGE.sites.values() for node in each.nodes)
    return f"{chips:,} chips, 4 types, {len(LARGE.sites)} sites, {len(timed)} batches"


def plan(name: str, cache: str) -> Timed:
    """In a process with its numba cache there. CheckFailedError with what it said where it fails."""
    start_s = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-m", "isthmus_bench.planner.scale_process", name],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
    )
    if ran.returncode:
        raise CheckFailedError("a search failed", hint=ran.stderr.decode().strip().splitlines()[-1])
    return Timed(msgspec.json.decode(ran.stdout, type=Planned), time.perf_counter() - start_s)
