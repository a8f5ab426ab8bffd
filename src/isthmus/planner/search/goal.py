"""Which of the plans that fit is best by the run's goal, within its limits."""

import itertools
import math
from collections.abc import Iterator, Sequence

from isthmus.errors import InfeasibleError
from isthmus.planner.search.fleet import Group, Survey, best_groups, budget_s, cost_of, rate
from isthmus.planner.search.pools import Pool
from isthmus.units import Seconds

MAX_SIZES = 12
"""Parts of each site that are looked at where fewer chips may be better."""


def choose(found: Survey) -> list[Group]:
    """Empty where the model fits nowhere; InfeasibleError where it fits but no plan keeps the limits."""
    goal = found.job.run.goal
    whole = best_groups(found)
    if not whole or (goal.best in ("tokens_per_s", "time") and not goal.max_chips and not goal.max_cost):
        _refuse_late(found, whole)
        return whole
    options = [whole, *_smaller(found)]
    kept = [groups for groups in options if groups and _keeps_limits(found, groups)]
    if not kept:
        raise _too_tight(found, options)
    return min(kept, key=lambda groups: _order(found, groups))


def _order(found: Survey, groups: Sequence[Group]) -> tuple[float, float]:
    speed = -rate(groups)
    match found.job.run.goal.best:
        case "cost":
            return cost_of(found.job.run, groups), speed
        case "chips":
            return num_chips(groups), speed
        case _:
            return speed, num_chips(groups)


def num_chips(groups: Sequence[Group]) -> int:
    return sum(group.packing.num_chips for group in groups)


def _keeps_limits(found: Survey, groups: Sequence[Group]) -> bool:
    run = found.job.run
    return (
        (not run.goal.deadline or budget_s(run, groups) <= run.goal.deadline)
        and (not run.goal.max_cost or cost_of(run, groups) <= run.goal.max_cost)
        and (not run.goal.max_chips or num_chips(groups) <= run.goal.max_chips)
    )


def _smaller(found: Survey) -> Iterator[list[Group]]:
    """Every choice of parts of the sites: none, or some of its nodes."""
    parts = {site: list(_parts(pools)) for site, pools in found.pools.items()}
    by_site: list[list[Group | None]] = []
    for site, choices in parts.items():
        groups: list[Group | None] = [None]
        for pools in choices:
            part = Survey(found.job, {site: pools}, {})
            packing = part.pack((site,))
            if packing is not None:
                groups.append(Group((site,), packing))
        by_site.append(_worth_having(groups))
    for chosen in itertools.product(*by_site):
        yield [group for group in chosen if group is not None]


def _worth_having(groups: Sequence[Group | None]) -> list[Group | None]:
    """Without those that another beats in chips, price and speed alike."""

    def figures(group: Group) -> tuple[float, float, float]:
        return group.packing.num_chips, group.packing.price, group.packing.step_s

    some = [group for group in groups if group is not None]
    kept: list[Group | None] = [None]
    for group in some:
        others = [figures(other) for other in some if other is not group]
        mine = figures(group)
        if not any(all(a <= b for a, b in zip(o, mine, strict=True)) and o != mine for o in others):
            kept.append(group)
    return kept


def _parts(pools: Sequence[Pool]) -> Iterator[list[Pool]]:
    """Of each pool by itself so many nodes, in steps that grow, and of all of them together."""
    for pool in pools:
        yield from ([pool.take(nodes)] for nodes in _sizes(pool.nodes))
    if len(pools) > 1:
        for share in (0.25, 0.5, 0.75, 1.0):
            yield [pool.take(max(1, round(share * pool.nodes))) for pool in pools]


def _sizes(nodes: int) -> list[int]:
    if nodes <= MAX_SIZES:
        return list(range(1, nodes + 1))
    growth = nodes ** (1 / (MAX_SIZES - 1))
    return sorted({round(growth**step) for step in range(MAX_SIZES)} | {nodes})


def _refuse_late(found: Survey, groups: Sequence[Group]) -> None:
    if groups and not _keeps_limits(found, groups):
        raise _too_tight(found, [groups])


def _times(factor: float) -> str:
    return f"{factor:.1f}" if factor < 10 else f"{math.ceil(factor):,}"


def _too_tight(found: Survey, options: Sequence[Sequence[Group]]) -> InfeasibleError:
    run = found.job.run
    goal, able = run.goal, [groups for groups in options if groups]
    fastest = min(able, key=lambda groups: budget_s(run, groups))
    cheapest = min(able, key=lambda groups: cost_of(run, groups))
    smallest = min(able, key=num_chips)
    hints: list[str] = []
    if goal.deadline:
        least = budget_s(run, fastest)
        times = least / goal.deadline
        hints.append(
            f"the least time is {Seconds(least)}: a later deadline, or {_times(times)} times the chips"
        )
    if goal.max_cost:
        hints.append(f"the least cost is {cost_of(run, cheapest):.4g}")
    if goal.max_chips:
        hints.append(f"the fewest chips are {num_chips(smallest)}")
    return InfeasibleError("no plan keeps the limits of the goal", where="goal", hint="; ".join(hints))
