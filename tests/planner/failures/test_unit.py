"""Machines that stop together, on schedules worked out by hand."""

import pytest

from isthmus.planner.failures import unit as u
from isthmus.planner.failures.pace import Cycle
from isthmus.planner.failures.unit import SERVER_POOL, Pool, Strike, Times, Unit

CYCLE = Cycle(work=100, stretch=0, pause=10)


def unit(*strikes, nodes=4, spares=9, repair=1000, replica=1, durable=0, server=0, end=500, shrink=False):
    pool = Pool(nodes, spares, repair, replica)
    planned = [Strike(at, 0, mark) if mark >= 0 else Strike(at, SERVER_POOL, 0.0) for at, mark in strikes]
    times = Times(detect=5, restart=20, durable=durable, server=server)
    return Unit([pool], planned, times, end, shrink)


def run(machines: Unit, cycle: Cycle = CYCLE) -> dict[str, int]:
    while machines.now < machines.end:
        machines.complete(cycle)
    assert sum(machines.spent.values()) == machines.end == machines.now
    return {cause: spent for cause, spent in machines.spent.items() if spent}


def test_without_failures_work_and_checkpoints_take_turns():
    assert run(unit()) == {u.USEFUL: 460, u.CHECKPOINT: 40}


def test_a_failure_loses_the_work_since_the_checkpoint():
    machines = unit((250, 0.5))
    # 220 two cycles, 30 lost, 25 to come back, then 275 + 110 + 110 = 495 and 5 more.
    assert run(machines) == {u.USEFUL: 405, u.LOST: 30, u.DETECT: 5, u.RESTART: 20, u.CHECKPOINT: 40}
    assert machines.outages == [(250, 275)]


def test_a_checkpoint_under_way_is_not_one():
    spent = run(unit((215, 0.5), end=240))
    assert spent == {u.USEFUL: 100, u.LOST: 100, u.CHECKPOINT: 15, u.DETECT: 5, u.RESTART: 20}


def test_a_checkpoint_that_is_not_written_yet_is_not_one_either():
    young, old = (run(unit((at, 0.5), durable=40, end=300))[u.LOST] for at in (250, 270))
    assert (young, old) == (130, 50)


def test_a_failure_while_coming_back_begins_it_anew():
    spent = run(unit((250, 0.5), (260, 0.1), end=300))
    assert spent == {u.USEFUL: 215, u.LOST: 30, u.DETECT: 10, u.RESTART: 25, u.CHECKPOINT: 20}


def test_without_a_spare_the_site_waits_for_the_repair():
    machines = unit((250, 0.5), spares=0, repair=100, end=400)
    # Detected at 255, the node is back at 350, training at 370.
    spent = run(machines)
    assert spent == {
        u.USEFUL: 230, u.LOST: 30, u.DETECT: 5, u.SPARE: 95, u.RESTART: 20, u.CHECKPOINT: 20,
    }  # fmt: skip


def test_an_empty_place_cannot_fail():
    """Place 0 of 4 is empty while one node is away: a mark below 1/4 hits nobody."""
    one, two = (unit((250, 0.5), (300, mark), spares=0, repair=100, end=600) for mark in (0.2, 0.9))
    assert run(one)[u.SPARE] == 95
    assert run(two)[u.SPARE] == 145 - 5
    assert [each.pools[0].failures for each in (one, two)] == [1, 2]


def test_a_site_that_may_shrink_goes_on_and_grows_again():
    machines = unit((250, 0.5), spares=0, repair=200, shrink=True, end=600)
    spent = run(machines)
    # At three quarters from 275; the node is back at 450, in use after the commit at 495, from 515 on.
    assert spent == {
        u.USEFUL: 200 + 150 + 85, u.SHRUNK: 50, u.LOST: 30, u.DETECT: 5, u.RESTART: 40, u.CHECKPOINT: 40,
    }  # fmt: skip
    assert machines.outages == [(250, 275), (495, 515)]


def test_whole_replicas_leave_with_one_node():
    assert Pool(8, 0, 100, 4).speed(0) == 1
    pool = Pool(8, 0, 100, 4)
    assert pool.fail(0, 0.9)
    assert pool.speed(0) == 0.5
    assert pool.fail(1, 0.9)
    assert pool.speed(1) == 0.5
    assert pool.speed(100) == 0.5
    assert pool.speed(101) == 1


def test_a_server_that_fails_pauses_and_costs_no_work():
    assert run(unit((250, -1), server=40, end=400)) == {u.USEFUL: 330, u.SERVER: 40, u.CHECKPOINT: 30}
    during = run(unit((250, -1), (260, 0.5), server=40, end=300))
    assert during == {
        u.USEFUL: 215, u.SERVER: 10, u.LOST: 30, u.DETECT: 5, u.RESTART: 20, u.CHECKPOINT: 20,
    }  # fmt: skip


def test_a_slow_line_inside_steps_stretches_them():
    assert run(unit(end=310), Cycle(100, 50, 5)) == {u.USEFUL: 200, u.LINK: 100, u.CHECKPOINT: 10}


@pytest.mark.parametrize("times", [0, 1, 7])
def test_many_cycles_at_once_are_as_one_by_one(times):
    at_once, singly = unit(end=10_000), unit(end=10_000)
    at_once.repeat(CYCLE, times)
    for _ in range(times):
        singly.complete(CYCLE)
    assert (at_once.now, at_once.spent) == (singly.now, singly.spent)


def test_holding_is_longer_where_a_failure_takes_longer():
    short, long = unit((50, 0.5)), unit((95, 0.5))
    for machines in (short, long):
        machines.hold(100, u.SITES)
    assert [short.now, long.now] == [100, 120]
    assert short.spent[u.SITES] == 75
    assert long.spent[u.SITES] == 95
