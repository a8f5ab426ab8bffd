"""The arithmetic of `planner.real`: which attempt counts, what a run is watched for, what is reported."""

import os

import pytest

from isthmus.planner.make import make_plan
from isthmus.planner.probed.predict import StepEstimate
from isthmus_bench.planner import real, trained
from isthmus_bench.planner.crowd import Crowd
from isthmus_bench.planner.trained import Trained
from isthmus_bench.targets import target_of


def test_the_quietest_attempt_counts_whatever_its_error():
    foreign = iter([0.3, 0.2, 0.4])
    assert real.quietest(lambda: next(foreign), lambda share: share, 3) == 0.2
    foreign = iter([0.3, 0.01, 0.0])
    assert real.quietest(lambda: next(foreign), lambda share: share, 3) == 0.01, "and then no more are taken"


def test_every_case_can_be_planned():
    for case in real.cases(quick=False):
        (site,) = make_plan(case.fleet, case.run).sites
        assert site.num_ranks == case.ranks
        (probed,) = make_plan(case.fleet, case.probed).sites
        assert (probed.micro_batch == site.micro_batch) == (case.probed_micro_batch == 0)


def test_a_case_is_reported_with_both_runs():
    step = StepEstimate(step_s=0.11, low_s=0.1, high_s=0.12, parts={"head": 0.11})
    runs = [Trained([0.1, 0.1, 0.5], 0.0), Trained([0.2], 0.0)]
    outcome = real.Outcome(real.cases(True)[0], step, runs, [(11, 10)], 0.03)
    result = real._result(outcome)
    assert result.id == "planner.real.one_rank"
    assert result.value == pytest.approx(0.1)
    assert result.peers == pytest.approx(
        {"predicted, ms": 110.0, "measured, ms": 100.0, "measured again, ms": 200.0}
    )
    assert "3%" in result.note
    assert str(target_of(result.id)) == "<= 0.1"


def test_only_the_ranks_of_a_run_are_watched():
    assert trained._ranks_of("/nowhere/run") == {}
    assert trained._peak_bytes(trained.Path("/proc/self")) > 10**7
    assert trained._peak_bytes(trained.Path("/nowhere")) == 0


def test_one_core_is_one_that_may_be_used():
    *_, core = trained.on_one_core()
    assert int(core) in os.sched_getaffinity(0)


def test_the_crowd_is_a_share():
    with Crowd() as crowd:
        sum(range(10**6))
    assert 0 <= crowd.share <= 1.5


def test_the_largest_error_is_the_result(monkeypatch: pytest.MonkeyPatch):
    step = StepEstimate(step_s=0.1, low_s=0.1, high_s=0.1, parts={"head": 0.1})

    def take(case: real.Case) -> real.Outcome:
        seen_s = 0.08 if case.name == "moe" else 0.1
        return real.Outcome(case, step, [Trained([seen_s], 0.0), Trained([0.1], 0.0)], [(104, 100)], 0.0)

    monkeypatch.setattr(real, "_take", take)
    monkeypatch.setattr(real.two_sites, "run", lambda base, quick: [])
    whole, memory, *each = real.run(quick=True)
    assert (whole.id, memory.id) == ("planner.real", "planner.memory_real")
    assert whole.value == pytest.approx(0.25)
    assert "planner.real.moe" in whole.note
    assert whole.peers == pytest.approx({"two identical runs": 0.25})
    assert memory.value == pytest.approx(0.04)
    assert len(each) == 4
