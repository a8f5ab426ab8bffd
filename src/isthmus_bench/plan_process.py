"""One search in a fresh process on one core, with nothing imported that a planner does not need.

`python -m isthmus_bench.plan_process NAME`, one of `CASES`; prints `Planned` as JSON.
"""

import os
import resource
import sys
import time
from typing import NamedTuple

import msgspec

from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, SiteSpec
from isthmus.spec.presets import presets
from isthmus.spec.run import DataSpec, RunSpec, TrainSpec
from isthmus.units import Bandwidth, Count, Seconds


class Case(NamedTuple):
    fleet: FleetSpec
    run: RunSpec


SEQ_LEN = 8192


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


class Planned(msgspec.Struct, frozen=True):
    search_s: float
    """Of the planner, once imported; what is compiled or loaded at the first call is in it."""
    search_cpu_s: float
    cpu_s: float
    """Of the whole process, from its start on."""
    step_s: float
    gap: float
    templates: int
    chips: int


def main(arguments: list[str]) -> int:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from isthmus.planner.search.answer import best_plan

    case = CASES[arguments[0]]
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    plan = best_plan(case.fleet, case.run)
    search_s, search_cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    assert plan.expected is not None
    used = resource.getrusage(resource.RUSAGE_SELF)
    planned = Planned(
        search_s=search_s,
        search_cpu_s=search_cpu_s,
        cpu_s=used.ru_utime + used.ru_stime,
        step_s=plan.expected.step_s,
        gap=plan.expected.gap,
        templates=sum(len(site.pipelines) for site in plan.sites),
        chips=sum(site.num_ranks for site in plan.sites),
    )
    print(msgspec.json.encode(planned).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
