"""Votes over hashes of the state."""

import random

import pytest
from pages import view

from isthmus.faults.detect import Readings
from isthmus.faults.detect.sdc import SdcDetector
from isthmus.faults.detect.standing import Standing
from isthmus.faults.page import PageReader, PageWriter, StateHash

PIECES = 16


def states_of(rank: int, steps: range, wrong: dict[int, set[int]]) -> list[StateHash]:
    """`wrong`: slices that a rank holds wrongly."""
    return [
        StateHash(step, piece := step % PIECES, 1000 * step + (7 if piece in wrong.get(rank, ()) else 0))
        for step in steps
    ]


def votes(num_ranks: int, steps: range, wrong: dict[int, set[int]]) -> Readings:
    ranks = tuple(range(num_ranks))
    return Readings(ranks=ranks, states={rank: states_of(rank, steps, wrong) for rank in ranks})


@pytest.mark.parametrize("num_ranks", [3, 4, 8])
def test_the_minority_is_named_once_its_slice_comes_up(num_ranks):
    detector = SdcDetector(Standing())
    assert detector.observe(0.0, votes(num_ranks, range(100), {})) == []
    found = detector.observe(1.0, votes(num_ranks, range(100, 100 + PIECES), {1: {5}}))
    assert [(f.kind, f.rank, f.suspects, f.lasting) for f in found] == [("sdc", 1, (1,), True)]
    assert detector.observe(2.0, votes(num_ranks, range(200, 264), {1: {5}})) == []


def test_a_tie_names_nobody():
    for num_ranks, wrong in ((2, {1: {5}}), (4, {1: {5}, 2: {5}})):
        detector = SdcDetector(Standing())
        found = detector.observe(1.0, votes(num_ranks, range(PIECES), wrong))
        assert [(f.rank, f.suspects) for f in found] == [(None, tuple(range(num_ranks)))]
        assert detector.observe(1.0, votes(num_ranks, range(PIECES, 64), wrong)) == []


def test_chips_of_different_kinds_do_not_vote_together():
    standing = Standing()
    detector = SdcDetector(standing)
    chips = {0: "a", 1: "a", 2: "a", 3: "b", 4: "b", 5: "c"}
    rounds = {rank: set(range(PIECES)) for rank in (3, 4, 5)}
    step = 0

    def pass_over(wrong: dict[int, set[int]]) -> list[tuple[int | None, tuple[int, ...]]]:
        nonlocal step
        told = votes(6, range(step, step + PIECES), wrong)
        step += PIECES
        readings = Readings(ranks=told.ranks, states=told.states, chips=chips)
        return [(found.rank, found.suspects) for found in detector.observe(0.0, readings)]

    assert pass_over(rounds) == []
    assert pass_over({**rounds, 1: {5}}) == [(1, (1,))]
    assert pass_over({**rounds, 4: set()}) == [(None, (3, 4))]
    assert [found.rank for found in standing.take_ended()] == [1], "the tie of the others is no end of it"
    assert pass_over(rounds) == []
    assert [found.rank for found in standing.take_ended()] == [None]


def test_it_is_over_when_that_slice_is_right_again():
    standing = Standing()
    detector = SdcDetector(standing)
    assert detector.observe(0.0, votes(4, range(PIECES), {1: {5}}))
    detector.observe(0.0, votes(4, range(PIECES, PIECES + 5), {}))
    assert standing.take_ended() == []
    detector.observe(0.0, votes(4, range(PIECES + 5, PIECES + 6), {}))
    assert [finding.rank for finding in standing.take_ended()] == [1]


def test_in_a_new_group_nobody_is_blamed_for_the_old_one_and_the_same_slice_may_go_wrong_again():
    standing = Standing()
    detector = SdcDetector(standing)
    pages = lambda generation: {rank: view(generation=generation) for rank in range(4)}  # noqa: E731
    wrong = votes(4, range(PIECES), {1: {5}})
    assert detector.observe(0.0, Readings(ranks=wrong.ranks, states=wrong.states, views=pages(2)))
    detector.observe(0.1, Readings(ranks=wrong.ranks, views=pages(3)))
    assert len(standing.take_ended()) == 1
    (found,) = detector.observe(0.2, Readings(ranks=wrong.ranks, states=wrong.states, views=pages(3)))
    assert found.rank == 1


def test_ranks_read_at_odd_times_are_compared_all_the_same():
    draw, detector, found = random.Random(1), SdcDetector(Standing()), []
    last = dict.fromkeys(range(4), 0)
    for now in range(1, 2000):
        states = {}
        for rank in range(4):
            if draw.random() < 0.3:
                upto = now + draw.randrange(3)
                if upto > last[rank]:
                    states[rank] = states_of(rank, range(last[rank], upto), {3: {9}} if now > 1000 else {})
                    last[rank] = upto
        found += detector.observe(now * 0.05, Readings(ranks=(0, 1, 2, 3), states=states))
        assert len(detector._held) < 200
    assert [finding.rank for finding in found] == [3]


def test_no_slice_is_missed_by_a_reader_that_comes_by_every_sixty_steps(tmp_path):
    pages = [PageWriter(tmp_path / str(rank)) for rank in range(3)]
    readers = [PageReader(tmp_path / str(rank)) for rank in range(3)]
    detector, found, last = SdcDetector(Standing()), [], 0
    for step in range(1, 601):
        for rank, page in enumerate(pages):
            page.end_step(step)
            page.hashed(step, step % PIECES, 77 if (rank, step) == (2, 333) else step)
        if step % 60 == 0:
            states = {rank: reader.states(last) for rank, reader in enumerate(readers)}
            last = step
            found += detector.observe(0.0, Readings(ranks=(0, 1, 2), states=states))
    assert [(f.rank, "step 333" in f.what) for f in found] == [(2, True)]
