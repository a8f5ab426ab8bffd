"""How long it takes to know what to do after an event, on 18,000 chips of four kinds at three sites."""

import math
import time

from isthmus.planner.plan import Plan
from isthmus.planner.replan.event import parse_event
from isthmus.planner.replan.option import Replan
from isthmus.planner.replan.replan import replan
from isthmus.planner.search.answer import best_plan
from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, SiteSpec, TrunkSpec
from isthmus.spec.presets import presets
from isthmus.spec.run import DataSpec, RunSpec, TrainSpec
from isthmus.units import Bandwidth, Count, Seconds
from isthmus_bench.document import Result

EVENTS = (
    "slow a chip=a800 nodes=1 speed=0.5", "slow b nodes=1 speed=0.8", "slow c nodes=2 speed=0.3",
    "lost a chip=a800 nodes=40", "lost b nodes=1", "lost c nodes=40",
    "trunk sea factor=0.5", "link b factor=0.5", "lost-site c",
)  # fmt: skip
BATCHES = (3072, 16_384)
"""Sequences of a step."""
REPEATS = 3


def run(quick: bool) -> list[Result]:
    batches = BATCHES[:1] if quick else BATCHES
    plans = {batch: best_plan(large_fleet(), large_run(batch)) for batch in batches}
    timed: list[tuple[float, int, str]] = []
    faults = answers = 0
    for batch, plan in plans.items():
        answer(plan, batch, EVENTS[0])  # compiles, and reads the belief
        for event in EVENTS:
            seconds, found = _timed(plan, batch, event)
            timed.append((seconds, batch, event))
            faults, answers = faults + wrong_prices(found), answers + len(found.options)
    timed += [_site_back(plans[batch], batch) for batch in batches]
    slowest, batch, event = max(timed)
    every = "; ".join(f"{event} {seconds:.2f}" for seconds, batch, event in timed if batch == batches[0])
    note = (
        f"the slowest of {len(timed)} answers: '{event}', batch {batch}; best of {REPEATS} each, the kernels "
        f"loaded, tables of the search built anew; seconds at batch {batches[0]}: {every}"
    )
    told = f"prices that do not add up, or less than doing nothing, of {answers} options"
    return [
        Result("planner.scale.replan", slowest, "s", {}, note),
        Result("planner.replan.wrong_prices", faults, "count", {}, told),
    ]


def large_fleet() -> FleetSpec:
    link = LinkSpec(bandwidth=Bandwidth(10e9), delay=Seconds(0.03))
    nodes = {
        "a": [NodeSpec(count=500, chips={"a800": 8}), NodeSpec(count=250, chips={"h800": 8})],
        "b": [NodeSpec(count=1000, chips={"ascend910b": 8})],
        "c": [NodeSpec(count=500, chips={"h20": 8})],
    }
    return FleetSpec(
        sites={name: SiteSpec(nodes=each, link=link) for name, each in nodes.items()},
        trunks={"sea": TrunkSpec(sites=["a", "b"], bandwidth=Bandwidth(20e9))},
    )


def large_run(batch: int) -> RunSpec:
    return RunSpec(
        model=presets["skywork-moe-146b"],
        data=DataSpec(seq_len=8192),
        train=TrainSpec(batch_size=batch, tokens=Count(10**13)),
    )


def answer(plan: Plan, batch: int, event: str) -> Replan:
    return replan(plan, large_fleet(), large_run(batch), [parse_event(event)])


def _timed(plan: Plan, batch: int, event: str) -> tuple[float, Replan]:
    times: list[float] = []
    answers: list[Replan] = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        answers.append(answer(plan, batch, event))
        times.append(time.perf_counter() - start_s)
    return min(times), answers[0]


def _site_back(plan: Plan, batch: int) -> tuple[float, int, str]:
    """The others run as planned, and site c comes back."""
    fleet = large_fleet()
    rest = FleetSpec(sites={name: site for name, site in fleet.sites.items() if name != "c"})
    without = best_plan(rest, large_run(batch))
    seconds, _ = _timed(without, batch, "back c")
    return seconds, batch, "back c"


def wrong_prices(found: Replan) -> int:
    """Options whose tokens are not their sites' together, or a choice that is not the best."""
    able = [option for option in found.options if option.sites]
    off = [
        option
        for option in able
        if not math.isclose(option.tokens, sum(price.tokens for price in option.sites), rel_tol=1e-9)
        or not math.isclose(option.gained_tokens, option.tokens - able[0].tokens, abs_tol=1.0)
    ]
    return len(off) + (found.chosen.tokens < max(option.tokens for option in able))
