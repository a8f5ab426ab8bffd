"""The planner's benchmarks: what they count, on a few fleets."""

from itertools import pairwise, product

import numpy as np

from isthmus_bench.planner import brute, optimality
from isthmus_bench.planner.fleets import draw
from isthmus_bench.targets import target_of

SEEDS = range(12)


def test_the_split_is_exact_on_some_fleets():
    trials = [optimality.trial(draw(seed)) for seed in SEEDS]
    result = optimality.gap(trials)
    assert result.id == "planner.optimality"
    assert result.value == 0
    assert "disagreement on 0" in result.note
    target = target_of(result.id)
    assert target is not None
    assert target.met(result.value)
    assert any(each.feasible for each in trials)


def test_a_disagreement_misses_the_target():
    trial = optimality.trial(draw(SEEDS[0]))
    assert optimality.gap([trial, trial._replace(agreed=False)]).value == 1
    assert optimality.gap([trial, trial._replace(gap=0.25)]).value == 0.25


def test_orders_of_the_stages_are_compared():
    trial = optimality.trial(draw(SEEDS[0]))._replace(feasible=True)
    losses = [trial._replace(blocks_gap=loss) for loss in (0.0, 0.5, np.inf)]
    result = optimality.blocks(losses)
    assert result.value == 0.5
    assert "1 of 2 fleets lose" in result.note
    assert "1 more fit in none" in result.note
    assert [optimality.changes(order) for order in ((0, 0, 1), (0, 1, 0), (2,))] == [1, 2, 0]


def test_fleets_follow_from_their_seed_and_are_whole_numbers():
    for seed in SEEDS:
        fleet, again = draw(seed), draw(seed)
        assert (fleet.costs_KTB == again.costs_KTB).all()
        assert fleet.types == again.types
        assert (fleet.costs_KTB == np.floor(fleet.costs_KTB)).all()
        assert len(fleet.types) <= 5
        assert fleet.costs_KTB.shape[2] - 2 <= 12


def test_brute_force_visits_every_plan_once():
    for stages, layers in product((1, 2, 3), (3, 4, 5)):
        ends, again = np.arange(1, stages + 1), np.zeros(stages, np.int64)
        ends[-1] = layers
        seen = {(tuple(ends), tuple(again))}
        while brute._next(ends, again, layers):
            plan = (tuple(ends.tolist()), tuple(again.tolist()))
            assert plan not in seen
            seen.add(plan)
        wanted = 0
        for cut in product(range(1, layers), repeat=stages - 1):
            bounds = (0, *cut, layers)
            sizes = [b - a for a, b in pairwise(bounds)]
            if min(sizes) >= 1:
                wanted += int(np.prod([size + 1 for size in sizes]))
        assert len(seen) == wanted
        held = np.full((4, stages), 1.0)
        assert brute.best_step(np.ones((6, stages, layers + 2)), held)[1] == wanted
