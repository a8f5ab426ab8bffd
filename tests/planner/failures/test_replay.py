"""Days of failures: against closed forms, and what must hold for any job."""

import math
from statistics import fmean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.failures.formulas import daly_interval_s, expected_goodput
from isthmus.planner.failures.job import Job, LineFaults, SiteJob
from isthmus.planner.failures.replay import DAY_S, replay, window_steps

HOUR_S = 3600.0


def site(name="a", **fields):
    values = {"nodes": 64, "spares": 1000, "mtbf_s": 1e6, "step_s": 1.0, "step_tokens": 1000}
    return SiteJob(**{"name": name, **values, **fields})


def job(*sites, **fields):
    return Job(**{"sites": list(sites) or [site()], "checkpoint_every_s": 600.0, **fields})


SITES = st.builds(
    site,
    name=st.sampled_from("abc"),
    nodes=st.integers(1, 40),
    spares=st.integers(0, 3),
    mtbf_s=st.floats(2e4, 1e7),
    step_s=st.floats(0.5, 60),
    replica_nodes=st.integers(1, 4),
    detect_s=st.floats(0, 100),
    restart_s=st.floats(0, 1000),
    read_s=st.floats(0, 100),
    repair_s=st.floats(0, 1e5),
    checkpoint_pause_s=st.floats(0, 100),
    checkpoint_durable_s=st.floats(0, 500),
    line=st.builds(
        LineFaults,
        transfer_s=st.floats(0, 0.4),
        slow_per_day=st.floats(0, 5),
        slow_s=st.floats(0, 5000),
        slow_factor=st.floats(1, 1000),
    ),
)
JOBS = st.builds(
    Job,
    sites=st.lists(SITES, min_size=1, max_size=3, unique_by=lambda each: each.name),
    mode=st.sampled_from(["none", "elastic", "strict"]),
    checkpoint_every_s=st.one_of(st.just(0.0), st.floats(10, 5000)),
    inner_steps=st.integers(10, 500),
    overlap_s=st.one_of(st.none(), st.floats(0, 500)),
    shrink=st.booleans(),
    server_mtbf_s=st.one_of(st.just(0.0), st.floats(1e4, 1e6)),
    takeover_s=st.floats(0, 100),
    reserve_s=st.floats(0, 100),
)


@settings(max_examples=60, deadline=None)
@given(JOBS, st.integers(0, 100))
def test_every_second_is_accounted_for(of, seed):
    outcome = replay(of, 2.0, seed)
    for each in outcome.sites:
        assert all(spent >= 0 for spent in each.spent_s.values())
        assert sum(round(spent * 1e6) for spent in each.spent_s.values()) == round(2 * DAY_S * 1e6)
        assert each.goodput == pytest.approx(each.spent_s["useful"] / (2 * DAY_S), rel=1e-12)
    assert math.fsum(outcome.spent_s.values()) == pytest.approx(2 * DAY_S, rel=1e-12)
    assert outcome.tokens == pytest.approx(outcome.goodput * of.tokens_per_s * 2 * DAY_S)
    assert outcome.goodput <= 1
    assert all(0 <= each.start_s <= each.end_s <= 2 * DAY_S for each in outcome.outages)


@settings(max_examples=30, deadline=None)
@given(JOBS, st.integers(0, 100))
def test_rounds_at_once_are_as_one_by_one(of, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isthmus.planner.failures.replay._repeat", lambda units, paces: None)
        singly = replay(of, 1.0, seed)
    assert replay(of, 1.0, seed) == singly


@settings(max_examples=20, deadline=None)
@given(JOBS, st.integers(0, 100))
def test_the_same_seed_gives_the_same_outcome(of, seed):
    assert replay(of, 1.0, seed) == replay(of, 1.0, seed)


@pytest.mark.parametrize(
    ("mtbf_s", "delta_s", "recovery_s", "tau_s"),
    [
        (20_000.0, 60.0, 420.0, 0.0),
        (20_000.0, 60.0, 420.0, 300.0),
        (3_000.0, 100.0, 900.0, 0.0),
        (3_000.0, 100.0, 900.0, 6_000.0),
        (500.0, 5.0, 30.0, 0.0),
    ],
)
def test_one_site_does_as_dalys_model_expects(mtbf_s, delta_s, recovery_s, tau_s):
    """Also where failures hit recovery and checkpoints often. 64 nodes are one Poisson process."""
    tau_s = tau_s or round(daly_interval_s(delta_s, mtbf_s))
    nodes = site(
        mtbf_s=64 * mtbf_s, repair_s=HOUR_S, checkpoint_pause_s=delta_s,
        detect_s=recovery_s / 3, restart_s=recovery_s / 3, read_s=recovery_s / 3,
    )  # fmt: skip
    of, days = job(nodes, checkpoint_every_s=tau_s), 150 * mtbf_s / DAY_S
    found = [replay(of, days, seed).goodput for seed in range(60)]
    error = stdev(found) / math.sqrt(len(found))
    assert error < 0.02
    assert fmean(found) == pytest.approx(expected_goodput(tau_s, delta_s, recovery_s, mtbf_s), abs=4 * error)


def test_dalys_interval_is_the_best_in_the_replay_too():
    nodes = site(mtbf_s=64 * 10_000.0, checkpoint_pause_s=60.0, restart_s=300.0)
    best_s = daly_interval_s(60.0, 10_000.0)
    means = {
        factor: fmean(
            replay(job(nodes, checkpoint_every_s=best_s * factor), 30.0, seed).goodput for seed in range(20)
        )
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0)
    }
    assert max(means, key=means.__getitem__) == 1.0


@pytest.mark.parametrize("shrink", [False, True])
def test_one_node_without_a_spare_is_up_for_mtbf_of_mtbf_and_repair(shrink):
    """An alternating renewal process: M / (M + repair), with exponential lives and fixed repairs."""
    alone = site(nodes=1, spares=0, mtbf_s=2 * HOUR_S, repair_s=HOUR_S)
    of = job(alone, checkpoint_every_s=1.0, shrink=shrink)
    found = [replay(of, 60.0, seed).goodput for seed in range(20)]
    error = stdev(found) / math.sqrt(len(found))
    assert fmean(found) == pytest.approx(2 / 3, abs=4 * error + 1e-3)


def test_a_site_that_shrinks_keeps_the_share_of_its_nodes_that_is_up():
    """Independent nodes: each is up for M / (M + repair) of the time, whatever the others do."""
    many = site(nodes=20, spares=0, mtbf_s=20 * HOUR_S, repair_s=5 * HOUR_S)
    found = [replay(job(many, checkpoint_every_s=1.0, shrink=True), 30.0, s).goodput for s in range(20)]
    assert fmean(found) == pytest.approx(20 / 25, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(JOBS, st.integers(0, 100), st.floats(1, 10))
def test_a_longer_mtbf_never_hurts(of, seed, factor):
    """With the same failures, some of them left out. Exact as long as spares last and lines are even."""
    plenty = [replace(each, spares=10_000, line=LineFaults()) for each in of.sites]
    of = replace(of, sites=plenty, mode="none" if of.mode == "strict" else of.mode, server_mtbf_s=0.0)
    better = replace(of, sites=[replace(each, mtbf_s=factor * each.mtbf_s) for each in plenty])
    assert replay(better, 3.0, seed).goodput >= replay(of, 3.0, seed).goodput - 1e-12


@settings(max_examples=40, deadline=None)
@given(JOBS, st.integers(0, 100), st.integers(0, 3))
def test_one_more_spare_never_hurts(of, seed, spares):
    """Exact where failures are seen at once: a site that stands for want of a node sees some later."""
    sites = [replace(each, spares=spares, detect_s=0.0, line=LineFaults()) for each in of.sites]
    of = replace(of, sites=sites, mode="none" if of.mode == "strict" else of.mode, server_mtbf_s=0.0)
    of = replace(of, shrink=False)
    more = replace(of, sites=[replace(each, spares=spares + 1) for each in sites])
    assert replay(more, 3.0, seed).goodput >= replay(of, 3.0, seed).goodput - 1e-12


@pytest.mark.parametrize("mode", ["none", "elastic", "strict"])
def test_on_average_mtbf_and_spares_help_everywhere(mode):
    def goodput(spares: int, mtbf_s: float) -> float:
        line = LineFaults(transfer_s=0.5, slow_per_day=3, slow_s=1000, slow_factor=300)
        sites = [
            site(name, nodes=20, spares=spares, mtbf_s=mtbf_s, detect_s=30, restart_s=120, line=line)
            for name in "abc"
        ]
        of = job(*sites, mode=mode, inner_steps=100, overlap_s=60.0)
        return fmean(replay(of, 10.0, seed).goodput for seed in range(8))

    by_spares = [goodput(spares, 2e6) for spares in (0, 1, 2, 4)]
    by_mtbf = [goodput(1, mtbf_s) for mtbf_s in (1e6, 2e6, 4e6, 8e6)]
    assert by_spares == sorted(by_spares)
    assert by_mtbf == sorted(by_mtbf)


def test_another_site_changes_nothing_for_those_that_train_on():
    sites = [site(name, spares=1, detect_s=9, restart_s=60) for name in "abc"]
    together = replay(job(*sites, mode="elastic", inner_steps=100), 20.0, 5)
    alone = [replay(job(each, mode="elastic", inner_steps=100), 20.0, 5) for each in sites]
    assert [each.sites[0] for each in alone] == together.sites
    assert len({each.failures for each in together.sites}) > 1


def test_who_stops_with_whom():
    sites = [site(name, detect_s=30, restart_s=300) for name in "abc"]
    none, strict, elastic = (
        replay(job(*sites, mode=mode, inner_steps=600, overlap_s=60.0), 10.0)
        for mode in ("none", "strict", "elastic")
    )
    assert none.failures == strict.failures == elastic.failures > 50
    assert elastic.goodput > strict.goodput > 0.5
    assert {each.goodput for each in none.sites} == {none.goodput}
    assert elastic.spent_s["other sites"] == 0 < strict.spent_s["other sites"]
    windows = [each.spent_s["useful"] / 600 for each in strict.sites]
    assert max(windows) - min(windows) <= 1


def test_a_window_is_equal_in_time_elastic_and_in_steps_strict():
    fast, slow = site("a", step_s=1.0), site("b", step_s=3.0)
    elastic, strict = (job(fast, slow, mode=mode, inner_steps=100) for mode in ("elastic", "strict"))
    assert [window_steps(elastic, each) for each in (fast, slow)] == [100, 33]
    assert [window_steps(strict, each) for each in (fast, slow)] == [100, 100]
    waiting = replay(replace(strict, sites=[replace(each, mtbf_s=1e15) for each in (fast, slow)]), 1.0)
    assert [round(each.goodput, 2) for each in waiting.sites] == [0.33, 1.0]


def test_a_slow_line_makes_strict_wait_and_elastic_push_less_often():
    line = LineFaults(transfer_s=50.0, slow_per_day=4, slow_s=3600, slow_factor=20)
    even = site(mtbf_s=1e15, line=line)
    elastic = replay(job(even, mode="elastic", inner_steps=100), 30.0)
    hidden = replay(job(even, mode="strict", inner_steps=100, overlap_s=1000.0), 30.0)
    strict = replay(job(even, mode="strict", inner_steps=100, overlap_s=60.0), 30.0)
    bare = replay(job(even, mode="strict", inner_steps=100, overlap_s=0.0), 30.0)
    assert elastic.spent_s["link"] == hidden.spent_s["link"] == 0
    assert 0 < strict.spent_s["link"] < bare.spent_s["link"]
    # 50 s of 150 on even days, much more in slow times.
    assert bare.goodput < 100 / 150
    # A failure in a slow time costs more of an elastic site: its last push is longer ago.
    failing = replace(even, mtbf_s=64 * HOUR_S)
    costs = [
        replay(job(each, mode="elastic", inner_steps=100), 30.0).spent_s["lost work"]
        for each in (failing, replace(failing, line=LineFaults()))
    ]
    assert costs[0] > costs[1]


def test_a_slow_line_inside_a_pipeline_slows_its_steps():
    line = LineFaults(transfer_s=0.2, slow_per_day=4, slow_s=3600, slow_factor=6)
    found = replay(job(site(mtbf_s=1e15, line=line), site("b", mtbf_s=1e15), checkpoint_every_s=60.0), 60.0)
    slow_share = 1 - math.exp(-4 * 3600 / DAY_S)
    # Steps take 1 + 0.2 x 5 = 2 s in slow times.
    assert found.goodput == pytest.approx(1 - slow_share / 2, abs=0.02)


def test_the_server():
    of = job(site(mtbf_s=1e15), mode="elastic", inner_steps=100, server_mtbf_s=HOUR_S, takeover_s=50.0)
    lost = replay(of, 10.0)
    assert lost.server_failures == pytest.approx(240, abs=60)
    assert lost.spent_s["server"] == pytest.approx(50 * lost.server_failures, abs=500)
    assert replay(replace(of, reserve_s=60.0), 10.0).goodput == 1.0
    assert replay(replace(of, mode="none", checkpoint_every_s=0.0), 10.0).goodput == 1.0


def test_without_checkpoints_a_failure_loses_everything():
    of = job(site(mtbf_s=64 * 86_400.0), checkpoint_every_s=0.0)
    outcome = replay(of, 10.0)
    assert outcome.failures > 1
    last_s = max(each.end_s for each in outcome.outages)
    assert outcome.spent_s["useful"] == pytest.approx(10 * DAY_S - last_s)


def test_eighteen_thousand_chips_for_a_month():
    large = [site(name, nodes=750, mtbf_s=264 * DAY_S, restart_s=300) for name in "abc"]
    outcome = replay(job(*large, mode="elastic", inner_steps=50), 30.0)
    assert outcome.failures == pytest.approx(2250 * 30 / 264, abs=5 * math.sqrt(256))
    assert 0.95 < outcome.goodput < 1


@pytest.mark.parametrize(
    ("of", "days", "where"),
    [
        (job(), 0.0, "days"),
        (job(), -1.0, "days"),
        (job(), math.nan, "days"),
        (job(site(mtbf_s=0.01)), 30.0, "days"),
        (Job(sites=[]), 1.0, "sites"),
        (job(site(spares=-1)), 1.0, "site a"),
        (job(site(nodes=0)), 1.0, "site a"),
        (job(site(mtbf_s=0.0)), 1.0, "site a"),
        (job(site(step_s=math.nan)), 1.0, "site a"),
        (job(site(repair_s=math.inf)), 1.0, "site a"),
        (job(site(line=LineFaults(slow_factor=0.5))), 1.0, "site a"),
        (job(site(line=LineFaults(transfer_s=2.0))), 1.0, "site a"),
        (job(takeover_s=-1.0), 1.0, "job"),
        (job(inner_steps=0), 1.0, "inner_steps"),
    ],
)
def test_what_cannot_be_is_refused(of, days, where):
    with pytest.raises(InputError) as caught:
        replay(of, days)
    assert caught.value.where == where
    assert caught.value.hint
