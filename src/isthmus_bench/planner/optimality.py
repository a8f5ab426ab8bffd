"""Is the split exact? Against all plans of 1,000 random small fleets."""

import time
from itertools import pairwise, permutations
from typing import NamedTuple

import numpy as np

from isthmus.planner.split import SplitProblem, shortfall, split
from isthmus_bench.document import Result
from isthmus_bench.planner import brute
from isthmus_bench.planner.fleets import Fleet, draw

FLEETS, QUICK_FLEETS = 1000, 60


class Trial(NamedTuple):
    """One fleet, over all orders of its stages."""

    gap: float
    """Largest (step of the planner's split - least step of all plans) / the latter, in size, of any order."""
    orders: int
    plans: int
    feasible: bool
    agreed: bool
    """On each order: whether a plan fits, what its step takes; on the first also how much memory lacks."""
    recomputed: bool
    """Some order's best plan recomputes layers."""
    split_s: float
    brute_s: float
    blocks_gap: float
    """What is lost if chips of one type always stand together; infinite: nothing fits so."""


def run(quick: bool) -> list[Result]:
    count = QUICK_FLEETS if quick else FLEETS
    trial(draw(0))  # compiles
    trials = [trial(draw(seed)) for seed in range(count)]
    return [gap(trials), blocks(trials)]


def gap(trials: list[Trial]) -> Result:
    """A disagreement on feasibility counts as a gap of 1."""
    orders, plans = sum(each.orders for each in trials), sum(each.plans for each in trials)
    split_s, brute_s = sum(each.split_s for each in trials), sum(each.brute_s for each in trials)
    infeasible = sum(not each.feasible for each in trials)
    recomputed = sum(each.recomputed for each in trials)
    disagreed = sum(not each.agreed for each in trials)
    note = (
        f"{len(trials)} fleets of <= 5 stages of 3 chip types, <= 12 layers, recompute, expert parallel; "
        f"all {orders:,} orders of the stages, {plans:,} plans; {recomputed} fleets recompute, "
        f"{infeasible} fit no plan, disagreement on {disagreed}; {1e6 * split_s / orders:.0f} µs a split, "
        f"{1e6 * brute_s / orders:,.0f} µs for all its plans"
    )
    largest = max([1.0 if not each.agreed else each.gap for each in trials])
    return Result("planner.optimality", largest, "ratio", {}, note)


def blocks(trials: list[Trial]) -> Result:
    """What it would cost to search only the orders in which chips of one type stand together."""
    losses = [each.blocks_gap for each in trials if each.feasible and each.blocks_gap < np.inf]
    worse = sum(loss > 0 for loss in losses)
    mixed = sum(each.feasible and each.blocks_gap == np.inf for each in trials)
    note = (
        f"largest loss if only orders are tried in which chips of one type stand together; {worse} of "
        f"{len(losses)} fleets lose, {float(np.mean(losses)):.2g} on average; {mixed} more fit in none"
    )
    return Result("planner.optimality.type_blocks", max(losses, default=0.0), "ratio", {}, note)


def trial(fleet: Fleet) -> Trial:
    orders = sorted(set(permutations(fleet.types)))
    off, least, together = 0.0, np.inf, np.inf
    plans, agreed, recomputed, split_s, brute_s = 0, True, False, 0.0, 0.0
    for order in orders:
        problem = fleet.problem(order)
        start_s = time.perf_counter()
        answer = split(problem)
        split_s += time.perf_counter() - start_s
        arrays = as_arrays(problem)
        start_s = time.perf_counter()
        best, count = brute.best_step(*arrays)
        brute_s += time.perf_counter() - start_s
        plans, least = plans + count, min(least, best)
        mine = brute.step(*arrays, answer.ends_S, answer.recompute_S) if answer else np.inf
        agreed &= (mine < np.inf) == (best < np.inf) and (answer is None or answer.step_s == mine)
        off = max(off, abs(mine - best) / best if max(mine, best) < np.inf else 0.0)
        recomputed |= answer is not None and bool(answer.recompute_S.any())
        if changes(order) == len(set(order)) - 1:
            together = min(together, best)
    agreed &= lack_is_exact(fleet.problem(orders[0]))
    lost = together / least - 1 if least < np.inf else 0.0
    return Trial(off, len(orders), plans, least < np.inf, agreed, recomputed, split_s, brute_s, lost)


def changes(order: tuple[int, ...]) -> int:
    return sum(a != b for a, b in pairwise(order))


def lack_is_exact(problem: SplitProblem) -> bool:
    """With what `shortfall` names some plan fits; with a MiB less none does."""
    lack = shortfall(problem).extra_bytes
    costs, held = as_arrays(problem)
    held[1] += lack
    fits = brute.best_step(costs, held)[0] < np.inf
    held[1] -= 1
    return fits and (lack == 0 or brute.best_step(costs, held)[0] == np.inf)


def as_arrays(problem: SplitProblem) -> tuple[np.ndarray, np.ndarray]:
    """What `brute` takes."""
    costs = np.array(
        [
            problem.forward_SB, problem.backward_SB, problem.recompute_SB,
            problem.state_SB, problem.activation_SB, problem.checkpoint_SB,
        ],
        float,
    )  # fmt: skip
    held = np.zeros((4, costs.shape[1]))
    held[0], held[1], held[2] = problem.fixed_S, problem.limit_S, problem.send_S
    held[3] = problem.micro_batches
    return costs, held
