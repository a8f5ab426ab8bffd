"""Gradients that are not finite and losses that jump."""

import math
import random

import pytest
from pages import record, view

from isthmus.faults.detect import Readings
from isthmus.faults.detect.numbers import LossDetector, NonfiniteDetector, stands_out
from isthmus.faults.detect.standing import Standing

RANKS = (0, 1, 2, 3)


def bad_pages(steps: dict[int, int], at: int = 7) -> Readings:
    return Readings(ranks=RANKS, views={r: view(step=at, nonfinite_step=steps.get(r, -1)) for r in RANKS})


def test_the_rank_that_made_it_is_named_at_the_next_look():
    detector = NonfiniteDetector(Standing())
    assert detector.observe(0.0, bad_pages({})) == []
    assert detector.observe(0.05, bad_pages({2: 7})) == []
    (finding,) = detector.observe(0.10, bad_pages({2: 7}))
    assert (finding.kind, finding.rank, finding.lasting) == ("nan", 2, False)
    assert detector.observe(0.15, bad_pages({2: 7})) == []


def test_what_spread_to_the_others_is_not_theirs():
    detector = NonfiniteDetector(Standing())
    assert detector.observe(0.0, bad_pages({0: 8, 1: 8, 2: 7, 3: 8}, at=12)) == []
    assert [f.rank for f in detector.observe(0.05, bad_pages({0: 8, 1: 8, 2: 7, 3: 8}, at=15))] == [2]
    detector = NonfiniteDetector(Standing())
    found = detector.observe(0.0, bad_pages({2: 7}))
    found += detector.observe(0.05, bad_pages({2: 7}))
    for n in range(10):
        found += detector.observe(0.5 + n / 20, bad_pages({0: 8, 1: 8, 2: 7, 3: 8}, at=9 + n // 5))
    assert [finding.rank for finding in found] == [2]


def test_all_that_made_it_in_the_first_step_are_named():
    detector = NonfiniteDetector(Standing())
    detector.observe(0.0, bad_pages({1: 7, 2: 7, 3: 8}))
    found = detector.observe(0.05, bad_pages({1: 7, 2: 7, 3: 8}))
    assert [(f.rank, f.suspects) for f in found] == [(1, (1, 2)), (2, (1, 2))]


def test_it_is_over_after_some_good_steps_and_may_come_again():
    standing = Standing()
    detector = NonfiniteDetector(standing)
    found = [f for at in (7, 7) for f in detector.observe(0.0, bad_pages({2: 7}, at=at))]
    found += detector.observe(1.0, bad_pages({2: 7}, at=40))
    assert len(standing.take_ended()) == 1
    found += [f for at in (50, 50) for f in detector.observe(2.0, bad_pages({2: 50}, at=at))]
    assert [f.rank for f in found] == [2, 2]


def test_a_group_that_was_rolled_back_may_come_to_it_in_the_same_step_again():
    detector, found = NonfiniteDetector(Standing()), []
    for generation in (1, 2):
        for bad in (-1, 7, 7):
            views = {
                rank: view(step=8, generation=generation, nonfinite_step=bad if rank == 2 else -1)
                for rank in RANKS
            }
            found += detector.observe(0.0, Readings(ranks=RANKS, views=views))
    assert [f.rank for f in found] == [2, 2]


def test_a_norm_in_a_record_says_it_too():
    detector = NonfiniteDetector(Standing())
    views = {rank: view(step=9) for rank in RANKS}
    steps = {rank: [record(8), record(9, norm=math.inf if rank == 1 else 1.0)] for rank in RANKS}
    detector.observe(0.0, Readings(ranks=RANKS, views=views, steps=steps))
    (finding,) = detector.observe(0.05, Readings(ranks=RANKS, views=views))
    assert (finding.rank, "after 8 steps" in finding.what) == (1, True)


def norms(step: int, *of_ranks: float, generation: int = 1) -> Readings:
    views = {rank: view(step=step, generation=generation) for rank in RANKS}
    return Readings(
        ranks=RANKS,
        views=views,
        steps={rank: [record(step, norm=norm)] for rank, norm in zip(RANKS, of_ranks, strict=True)},
    )


def test_a_rank_that_alone_stays_at_it_is_to_be_replaced():
    detector = NonfiniteDetector(Standing())
    rows = [norms(step, 1.0, 1.0, math.nan, 1.0) for step in range(20, 26)]
    found = [f for n, row in enumerate(rows) for f in detector.observe(n / 20, row)]
    assert [(f.rank, f.lasting) for f in found] == [(2, False), (2, True)]
    again = [norms(step, 1.0, 1.0, math.nan, 1.0, generation=2) for step in range(26, 30)]
    found = [f for n, row in enumerate(again) for f in detector.observe(1 + n / 20, row) if f.lasting]
    assert [f.rank for f in found] == [2]


def test_where_all_stay_at_it_nobody_is_to_be_replaced():
    detector = NonfiniteDetector(Standing())
    rows = [norms(step, math.nan, math.inf, math.nan, math.nan) for step in range(20, 30)]
    assert not any(f.lasting for n, row in enumerate(rows) for f in detector.observe(n / 20, row))


def losses(seed: int, num_steps: int) -> list[dict[int, float]]:
    """Of four ranks, falling, with noise of rows."""
    draw = random.Random(seed)
    return [
        {rank: 2.0 + 4.0 * math.exp(-step / 500) + draw.gauss(0, 0.06) for rank in RANKS}
        for step in range(num_steps)
    ]


def observe_losses(rows: list[dict[int, float]], standing: Standing | None = None):
    detector = LossDetector(standing or Standing())
    found = []
    for step, row in enumerate(rows, start=1):
        steps = {rank: [record(step, loss=loss)] for rank, loss in row.items()}
        found += detector.observe(0.1 * step, Readings(ranks=RANKS, steps=steps))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_loss_that_falls_raises_no_alarm(seed):
    assert observe_losses(losses(seed, 4000)) == []


def test_a_spike_of_one_rank_names_it():
    rows = losses(1, 400)
    rows[300][2] += 5.0
    (finding,) = observe_losses(rows)
    assert (finding.kind, finding.rank) == ("loss_spike", 2)


def test_a_spike_of_all_ranks_names_nobody():
    rows = losses(1, 400)
    for step in range(300, 320):
        rows[step] = {rank: loss + 1.0 for rank, loss in rows[step].items()}
    standing = Standing()
    (finding,) = observe_losses(rows, standing)
    assert (finding.kind, finding.rank, finding.suspects) == ("loss_spike", None, ())
    assert len(standing.take_ended()) == 1


def test_losses_that_are_not_told_are_not_judged():
    rows = [{rank: 0.0 for rank in RANKS} for _ in range(200)]
    assert observe_losses(rows) == []
    rows = [{rank: math.nan for rank in RANKS} for _ in range(200)]
    assert observe_losses(rows) == []


def test_who_stands_out():
    same = {rank: record(1, loss=3.0 + 0.01 * rank, norm=1.0) for rank in RANKS}
    assert stands_out(same, 6.0) is None
    assert stands_out(same | {1: record(1, norm=50.0)}, 6.0) == 1
    assert stands_out(same | {3: record(1, loss=9.0)}, 6.0) == 3
    assert stands_out(same | {2: record(1, loss=9.0), 3: record(1, loss=9.1)}, 6.0) is None
    assert stands_out({0: record(1), 1: record(1, loss=90.0)}, 6.0) is None
