"""One search in a fresh process on one core: `python -m isthmus_bench.planner.scale_process NAME`.

Prints `Planned` as JSON.
"""

import os
import resource
import sys
import time

import msgspec


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
    from isthmus_bench.planner.scale import CASES

    case = CASES[arguments[0]]
    fleet, run = case.fleet, case.run
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    plan = best_plan(fleet, run)
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
