"""Hang decisions on pages made by hand."""

import random

import pytest
from pages import Group, record, view

from isthmus.faults.detect import NodeFacts, Watch
from isthmus.faults.detect.hang import HangDetector
from isthmus.faults.detect.patience import HangSettings, Patience
from isthmus.faults.detect.standing import Standing
from isthmus.faults.detect.wait_graph import find_mismatch, wait_graph
from isthmus.faults.finding import Finding
from isthmus.faults.page import Phase


def watch_for(detector: HangDetector, group: Group, duration_s: float) -> list[Finding]:
    """What is said within so many seconds."""
    found: list[Finding] = []
    for _ in range(round(duration_s / 0.05)):
        readings = group.look()
        found += detector.observe(group.now_s, readings)
    return found


def running(num_ranks: int = 4, step_s: float = 0.1) -> tuple[HangDetector, Group]:
    """A group that has done some steps, of which nothing was said."""
    detector, group = HangDetector(Standing()), Group(num_ranks, step_s)
    assert watch_for(detector, group, max(5.0, 20 * step_s)) == []
    return detector, group


def all_wait_for(group: Group, culprit: int, sequence: int = 41) -> None:
    for rank in group.ranks:
        if rank != culprit:
            group.waits(rank, sequence)


def fall_asleep(group: Group, rank: int, phase: Phase = Phase.FORWARD) -> None:
    group.set(rank, phase=phase, issued=40, finished=40)
    group.sleeps(rank)


@pytest.mark.parametrize("step_s", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("phase", [Phase.LOAD, Phase.FORWARD, Phase.BOUNDARY])
def test_a_sleeping_rank_is_named_within_three_seconds(step_s, num_ranks, phase):
    detector, group = running(num_ranks, step_s)
    culprit = num_ranks // 2
    fall_asleep(group, culprit, phase)
    all_wait_for(group, culprit)
    began_s = group.now_s
    found = watch_for(detector, group, 3.0)
    assert [(f.rank, f.lasting) for f in found] == [(culprit, True)]
    assert found[0].kind == ("dataloader_hang" if phase == Phase.LOAD else "hang")
    assert found[0].began_s == pytest.approx(began_s)
    assert "sleeps" in found[0].what
    assert watch_for(detector, group, 60.0) == []


def test_a_stopped_rank_is_named_sooner_even_inside_a_collective():
    detector, group = running()
    for rank in group.ranks:
        group.waits(rank, 41)
    group.letters[3] = "T"
    found = watch_for(detector, group, 1.5)
    assert [f.rank for f in found] == [3]
    assert "stopped" in found[0].what
    assert watch_for(detector, group, 60.0) == []


def test_a_rank_with_the_interpreter_lock_held_is_called_so():
    detector, group = running()
    fall_asleep(group, 1)
    all_wait_for(group, 1)
    group.set(1, pulse_s=2.0)
    found = watch_for(detector, group, 3.0)
    assert "interpreter lock" in found[0].what


def test_a_rank_whose_lock_is_held_inside_a_collective_is_named_though_it_waits_like_all():
    detector, group = running()
    for rank in group.ranks:
        group.waits(rank, 41 if rank == 2 else 42)
    group.set(2, pulse_s=2.0)
    found = watch_for(detector, group, 3.0)
    assert [(f.kind, f.rank) for f in found] == [("hang", 2)]
    assert "interpreter lock held" in found[0].what
    assert "ranks 0, 1, 3 wait for it" in found[0].what
    assert watch_for(detector, group, 60.0) == []


def test_where_every_lock_is_held_nobody_is_blamed():
    detector, group = running()
    for rank in group.ranks:
        group.waits(rank, 41)
        group.set(rank, pulse_s=2.0)
    found = watch_for(detector, group, 60.0)
    assert [(f.kind, f.rank) for f in found] == [("comm_error", None)]


def test_what_was_found_is_over_once_the_rank_writes_again():
    detector, group = running()
    fall_asleep(group, 1)
    all_wait_for(group, 1)
    assert watch_for(detector, group, 3.0)
    for rank in group.ranks:
        group.wakes(rank)
        group.set(rank, waiting=0)
    assert watch_for(detector, group, 1.0) == []
    assert [finding.rank for finding in detector._standing.take_ended()] == [1]
    fall_asleep(group, 1)
    all_wait_for(group, 1)
    assert [finding.rank for finding in watch_for(detector, group, 3.0)] == [1]


@pytest.mark.parametrize("phase", [Phase.CHECKPOINT, Phase.EVALUATE, Phase.IDLE, Phase.REGROUP])
def test_a_pause_is_no_hang(phase):
    detector, group = running()
    fall_asleep(group, 0, phase)
    all_wait_for(group, 0)
    assert watch_for(detector, group, 300.0) == []


def test_a_pause_is_a_hang_when_it_takes_much_longer_than_the_ones_before():
    detector, group = running()
    for _ in range(3):
        fall_asleep(group, 0, Phase.CHECKPOINT)
        all_wait_for(group, 0)
        assert watch_for(detector, group, 10.0) == []
        for rank in group.ranks:
            group.wakes(rank)
            group.set(rank, phase=Phase.FORWARD, waiting=0)
        assert watch_for(detector, group, 2.0) == []
    fall_asleep(group, 0, Phase.CHECKPOINT)
    all_wait_for(group, 0)
    assert watch_for(detector, group, 45.0) == []
    found = watch_for(detector, group, 15.0)
    assert [(f.rank, "checkpoint" in f.what) for f in found] == [(0, True)]


def test_a_rank_that_sleeps_while_another_saves_is_found_too():
    detector, group = running()
    fall_asleep(group, 0, Phase.CHECKPOINT)
    fall_asleep(group, 2, Phase.FORWARD)
    group.waits(1, 41)
    group.waits(3, 41)
    assert [f.rank for f in watch_for(detector, group, 10.0)] == [2]


def test_a_rank_that_computes_gets_the_longer_time_and_more_if_the_machine_gives_it_less():
    for cores, least_s, most_s in ((1.0, 20.0, 21.0), (0.33, 60.0, 62.0)):
        detector, group = running()
        fall_asleep(group, 1)
        group.letters[1], group.cores[1] = "R", cores
        all_wait_for(group, 1)
        assert watch_for(detector, group, least_s - 0.5) == []
        found = watch_for(detector, group, most_s - least_s + 1)
        assert [f.rank for f in found] == [1]
        assert "computes" in found[0].what


def test_on_a_crowded_node_silence_may_last_longer():
    detector, group = running()
    group.homes = dict.fromkeys(group.ranks, "n")
    group.nodes = {"n": NodeFacts(contention=1.0)}
    assert watch_for(detector, group, 5.0) == []
    group.nodes = {"n": NodeFacts(contention=3.0)}
    fall_asleep(group, 1)
    all_wait_for(group, 1)
    assert watch_for(detector, group, 5.5) == []
    assert [f.rank for f in watch_for(detector, group, 1.0)] == [1]


def test_steps_that_become_slower_make_it_more_patient():
    detector, group = running(step_s=0.1)
    group.step_s = 3.0
    assert watch_for(detector, group, 60.0) == []
    fall_asleep(group, 1)
    all_wait_for(group, 1)
    assert watch_for(detector, group, 11.0) == []
    assert [f.rank for f in watch_for(detector, group, 2.0)] == [1]


def test_the_first_steps_of_a_process_may_take_long():
    detector, group = HangDetector(Standing()), Group()
    fall_asleep(group, 1)
    all_wait_for(group, 1, sequence=1)
    assert watch_for(detector, group, 59.0) == []
    assert [f.rank for f in watch_for(detector, group, 2.0)] == [1]


def test_a_rank_that_does_not_come_at_the_start_is_named():
    detector, group = HangDetector(Standing()), Group()
    group.absent = {2}
    for rank in group.ranks:
        group.set(rank, phase=Phase.START)
    assert watch_for(detector, group, 4.0) == []
    for rank in (0, 1, 3):
        group.set(rank, phase=Phase.FORWARD)
        group.waits(rank, 1)
    assert watch_for(detector, group, 25.0) == []
    found = watch_for(detector, group, 6.0)
    assert [(f.kind, f.rank) for f in found] == [("rendezvous", 2)]
    group.absent = set()
    watch_for(detector, group, 0.2)
    assert len(detector._standing.take_ended()) == 1


def test_a_rank_that_stays_in_its_start_while_others_wait_is_named():
    detector, group = HangDetector(Standing()), Group()
    for rank in group.ranks:
        group.set(rank, phase=Phase.START)
    assert watch_for(detector, group, 2.0) == []
    for rank in (0, 1, 3):
        group.set(rank, phase=Phase.FORWARD)
        group.waits(rank, 1)
    group.sleeps(2)
    found = watch_for(detector, group, 70.0)
    assert [f.rank for f in found] == [2]
    assert "start" in found[0].what


def test_another_collective_at_the_same_place_names_the_rank():
    detector, group = running()
    for rank in group.ranks:
        group.waits(rank, 41)
        group.set(rank, collectives={40: 7, 41: 8 if rank != 2 else 9})
    found = watch_for(detector, group, 1.5)
    assert [(f.kind, f.rank, f.suspects) for f in found] == [("desync", 2, (2,))]
    assert watch_for(detector, group, 60.0) == []


def test_between_two_ranks_nobody_is_named_for_a_mismatch():
    detector, group = running(2)
    for rank in group.ranks:
        group.waits(rank, 41)
        group.set(rank, collectives={41: rank})
    found = watch_for(detector, group, 1.5)
    assert [(f.kind, f.rank, f.suspects) for f in found] == [("desync", None, (0, 1))]


def test_ranks_that_never_do_the_same_are_not_called_out_of_step():
    detector, group = running()
    fall_asleep(group, 1)
    all_wait_for(group, 1)
    for rank in group.ranks:
        group.set(rank, collectives={39: rank, 40: rank})
    assert [f.kind for f in watch_for(detector, group, 3.0)] == ["hang"]


def test_all_in_the_same_collective_blames_nobody():
    detector, group = running()
    for rank in group.ranks:
        group.waits(rank, 41)
    assert watch_for(detector, group, 9.5) == []
    found = watch_for(detector, group, 1.0)
    assert [(f.kind, f.rank) for f in found] == [("comm_error", None)]


def test_all_asleep_in_the_loader_is_a_common_cause():
    detector, group = running()
    for rank in group.ranks:
        fall_asleep(group, rank, Phase.LOAD)
    found = watch_for(detector, group, 3.0)
    assert [(f.kind, f.rank, f.suspects) for f in found] == [("dataloader_hang", None, (0, 1, 2, 3))]


def test_a_watcher_that_was_held_up_itself_blames_nobody():
    detector, group = running()
    fall_asleep(group, 1)
    all_wait_for(group, 1)
    found = [f for _ in range(5) for f in detector.observe(group.now_s, group.look(dt_s=4.0))]
    assert found == []


def test_a_rank_that_left_is_missed_by_nobody():
    detector, group = running()
    fall_asleep(group, 1)
    group.set(1, left=True)
    for rank in (0, 2, 3):
        group.set(rank, phase=Phase.DONE)
        group.sleeps(rank)
    assert watch_for(detector, group, 60.0) == []


def test_minutes_of_steps_pauses_and_crowding_raises_no_alarm():
    draw = random.Random(5)
    watch, group = Watch(), Group()
    group.homes = dict.fromkeys(group.ranks, "n")
    for _ in range(200):
        group.nodes = {"n": NodeFacts(contention=draw.choice([1.0, 1.0, 3.0]))}
        group.step_s = draw.choice([0.05, 0.1, 0.3])
        event = draw.random()
        if event < 0.1:
            fall_asleep(group, 0, draw.choice([Phase.CHECKPOINT, Phase.EVALUATE]))
            all_wait_for(group, 0)
        elif event < 0.2:
            rank = draw.randrange(4)
            fall_asleep(group, rank)
            group.letters[rank], group.cores[rank] = "R", 0.33
            all_wait_for(group, rank)
        for _ in range(draw.randrange(60, 140)):
            assert watch.observe(group.now_s, group.look()) == []
        for rank in group.ranks:
            group.wakes(rank)
            group.set(rank, phase=Phase.FORWARD, waiting=0)


def test_the_graph_blames_the_one_that_is_behind():
    views = {
        0: view(issued=12, waiting=12),
        1: view(issued=12, waiting=11),
        2: view(issued=10),
        3: view(issued=12),
    }
    graph = wait_graph(views)
    assert (graph.suspects, graph.victims, graph.sequence) == ((2,), (0, 1), 11)


def test_a_mismatch_is_the_first_one_and_of_the_newest_generation():
    views = {
        0: view(collectives={1: 5, 2: 6, 3: 7}),
        1: view(collectives={1: 5, 2: 9, 3: 8}),
        2: view(collectives={2: 6}),
        3: view(generation=0, collectives={1: 4}),
    }
    mismatch = find_mismatch(views)
    assert mismatch is not None
    assert (mismatch.sequence, mismatch.odd, mismatch.majority) == (2, (1,), True)
    assert find_mismatch({0: view(), 1: view()}) is None


def test_waiting_for_a_rank_that_saves_makes_nobody_more_patient():
    patience = Patience(HangSettings())
    for step in range(1, 200):
        own, others = record(step, 0.1), record(step, 3.0 if step % 10 == 0 else 0.1)
        patience.learn({}, {0: [own], 1: [others], 2: [others]})
    assert patience.step_p99_s == pytest.approx(0.1)
