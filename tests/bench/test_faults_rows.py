"""What the rows of faults in running sites make of the events they read."""

import random

from isthmus.journal.events import AnyEvent, Fault, RangeDiscarded, StepDone, VersionApplied
from isthmus_bench.faults import site_cut, storm
from isthmus_bench.faults.controller import stall_s
from isthmus_bench.faults.drill import Happened, first_said, happened
from isthmus_bench.faults.overhead import Costs, Spent, shares
from isthmus_bench.outer.measure import Span


def step(site: str, number: int, wall_s: float, step_s: float = 1.0) -> StepDone:
    return StepDone(
        wall_s=wall_s, site=site, step=number, tokens=1, loss=1.0, lr=0.1, grad_norm=1.0, step_s=step_s,
        wait_s=0.0, version=0,
    )  # fmt: skip


def fault(subject: str, wall_s: float) -> Fault:
    return Fault(wall_s=wall_s, source="agent/here", subject=subject, kind="hang", detail="")


def test_the_log_of_a_rank_says_when_a_fault_happened(tmp_path):
    log = tmp_path / "rank.log"
    log.write_text("warning: x\ndrill: gil after 12 steps at 17.250000\ndrill: stop after -1 steps at 20.0\n")
    assert happened(log) == [Happened("gil", 12, 17.25), Happened("stop", -1, 20.0)]
    assert happened(tmp_path / "none") == []


def test_the_first_word_is_all_that_one_finding_names():
    faults = [fault("rank-here-0", 5.0), fault("rank-here-2", 9.001), fault("rank-here-1", 9.0)]
    faults.append(fault("rank-here-3", 12.0))
    assert [each.subject for each in first_said(faults, 8.0)] == ["rank-here-1", "rank-here-2"]
    assert first_said(faults, 13.0) == []


def test_a_storm_has_one_blow_in_each_stretch_and_repeats():
    blows = storm.plan(200, random.Random(1), steps_each=40)
    assert blows == storm.plan(200, random.Random(1), steps_each=40)
    starts = [storm.FIRST_STEPS + 40 * number for number in range(200)]
    assert all(start <= blow.step < start + 40 for start, blow in zip(starts, blows, strict=True))
    assert {blow.victim for blow in blows} == {"rank", "standby", "nursery"}
    assert 10 < sum(blow.again_s >= 0 for blow in blows) < 80


def test_what_a_kill_cost_is_its_gap_without_a_usual_step():
    done = [step("here", number, at_s) for number, at_s in enumerate([0.0, 1.0, 2.0, 5.0, 6.0, 7.0])]
    assert storm.lost_seconds(done, [2.5, 3.0]) == [2.0]
    assert storm.lost_seconds(done, []) == []
    assert storm.lost_seconds([], [1.0]) == []


def test_a_stall_is_the_longest_gap_beyond_the_usual():
    times = [0.0, 1.0, 2.0, 3.0, 4.5, 5.5, 6.5]
    assert stall_s(times, 3.2, 6.5) == 0.5
    assert stall_s(times, 0.5, 2.5) == 0.0
    assert stall_s(times, 6.0, 12.5) == 5.0  # nothing came after the last step


def test_sites_that_are_not_cut_lose_what_is_discarded_and_where_they_stand_still():
    span = Span(0.0, 100.0)
    events: list[AnyEvent] = [step("a", number, 10.0 + number) for number in range(9)]
    assert site_cut.lost_steps(events, "a", span) == 0
    events.append(step("a", 9, 30.0, step_s=11.0))
    assert site_cut.lost_steps(events, "a", span) == 10
    events.append(RangeDiscarded(wall_s=40.0, site="a", start=0, end=8, reason="stale"))
    assert site_cut.lost_steps(events, "a", span) == 12
    assert site_cut.lost_steps(events, "b", span) == float("inf")


def test_a_site_is_back_with_what_first_crosses_its_link():
    applied = [
        VersionApplied(wall_s=at_s, site="a", version=1, hash="", delay_steps=0, bytes_down=1, refresh=False)
        for at_s in (9.0, 12.5, 14.0)
    ]
    assert site_cut.rejoined_s(applied, "a", 10.0) == 2.5
    assert site_cut.rejoined_s(applied, "a", 20.0) is None


def test_shares_of_the_overhead_add_up():
    spent = Spent(agent_s=1.0, ranks_s=99.0, steps=100, collectives=800, wall_s=50.0)
    costs = Costs(page_s=1e-4, checksum_s=2e-4, norm_s=3e-4, pulse_s=1e-4)
    share, parts = shares(spent, costs)
    assert abs(parts["agent"] - 0.01) < 1e-9
    assert abs(parts["checksum"] - 100 * 4 * 2e-4 / 100) < 1e-9
    assert abs(parts["pulses"] - 4 * 250 * 1e-4 / 100) < 1e-9
    assert abs(sum(parts.values()) - share) < 1e-12
