"""What the cross-site benchmark computes from a journal, and its one-process federation."""

import numpy as np
import pytest

from isthmus.journal import events
from isthmus.outer.merge import MasterState
from isthmus.spec.run import OuterSpec
from isthmus_bench.outer import equivalent, loss_gap, measure
from isthmus_bench.outer.federation import Plan, Site, make_layout, make_learner
from isthmus_bench.outer.fleet import Link
from isthmus_bench.outer.measure import Span


def step(
    at_s: float, step_s: float = 1.0, tokens: int = 10, wait_s: float = 0.0, site: str = "a"
) -> events.StepDone:
    return events.StepDone(
        wall_s=at_s, site=site, step=1, tokens=tokens, loss=1.0, lr=1e-3, grad_norm=1.0, step_s=step_s,
        wait_s=wait_s, version=0,
    )  # fmt: skip


def push(at_s: float, seq: int, tokens: int = 100, site: str = "a") -> events.ContributionReceived:
    return events.ContributionReceived(
        wall_s=at_s, site=site, seq=seq, base_version=0, tokens=tokens, bytes_up=1, norm=1.0
    )


def discarded(at_s: float, reason: str, site: str = "a") -> events.RangeDiscarded:
    return events.RangeDiscarded(wall_s=at_s, site=site, start=0, end=1, reason=reason)


def merged(start: int, end: int) -> events.RangeMerged:
    return events.RangeMerged(site="a", start=start, end=end, version=1)


def sample(at_s: float, up: int, down: int) -> events.LinkSample:
    return events.LinkSample(
        wall_s=at_s, site="a", bytes_up=up, bytes_down=down, rtt_s=0, up_bps=0, down_bps=0, resent_chunks=0,
        connected=True,
    )  # fmt: skip


def version(at_s: float, number: int) -> events.VersionPublished:
    return events.VersionPublished(
        wall_s=at_s, version=number, server_epoch=1, sites=["a"], weights=[1.0], tokens=1, full_quorum=True,
        wait_s=0.0,
    )  # fmt: skip


def applied(site: str, number: int) -> events.VersionApplied:
    return events.VersionApplied(
        site=site, version=number, hash="", delay_steps=1, bytes_down=1, refresh=False
    )


def test_a_step_across_the_border_counts_by_its_share() -> None:
    done = [step(1.0), step(2.0), step(3.0), step(3.0, site="b")]
    assert measure.step_rate(done, "a", Span(0.5, 2.5)) == pytest.approx(10.0)
    assert measure.step_rate(done, "a", Span(10, 20)) == 0


def test_waiting_is_a_share_of_the_time_of_the_steps() -> None:
    done = [step(2.0, step_s=2.0, wait_s=1.0), step(4.0, step_s=2.0)]
    assert measure.wait_share(done, "a", Span(0.0, 4.0)) == pytest.approx(0.25)
    assert measure.wait_share(done, "b", Span(0.0, 4.0)) == 0


def test_the_common_span_begins_with_the_last_site_and_ends_with_the_first() -> None:
    done = [*(step(at, site="a") for at in (1, 2, 3, 9)), *(step(at, site="b") for at in (4, 5, 6, 7))]
    assert measure.common_span(done, ["a", "b"], 1) == Span(5, 7)
    with pytest.raises(ValueError, match="first steps"):
        measure.common_span(done, ["a", "b"], 4)
    with pytest.raises(ValueError, match="same time"):
        measure.common_span([step(1), step(2), step(5, site="b"), step(6, site="b")], ["a", "b"], 0)


def test_the_merged_rate_leaves_out_what_was_discarded() -> None:
    pushes = [push(at, seq) for seq, at in enumerate((0.0, 10.0, 20.0, 30.0))]
    assert measure.merged_rate(pushes, "a") == pytest.approx(10.0)
    bad = [*pushes[:3], discarded(20.1, "stale"), discarded(20.2, "stale"), pushes[3]]
    assert measure.merged_rate(bad, "a") == pytest.approx(5.0)
    other = [*pushes[:3], discarded(20.1, "left"), discarded(20.2, "stale", site="b"), pushes[3]]
    assert measure.merged_rate(other, "a") == pytest.approx(10.0)
    with pytest.raises(ValueError, match="only 1 pushes"):
        measure.merged_rate(pushes[:2], "a")


def test_coverage_tells_what_is_missing_and_what_came_twice() -> None:
    assert measure.coverage([merged(10, 20), merged(0, 10)], 20) == (0, 0)
    assert measure.coverage([merged(0, 10), merged(5, 12), merged(15, 20)], 20) == (3, 5)


def test_traffic_is_counted_between_quiet_samples() -> None:
    run = [
        sample(0, 1000, 0), push(1.0, 1), version(1.0, 1), sample(1.1, 1100, 5), sample(3, 1100, 50),
        sample(4.9, 1150, 50), push(5.0, 2), version(5.1, 2), sample(8, 1200, 100), push(9, 3), version(9, 3),
        sample(12, 1300, 150), sample(12.9, 1390, 150), push(13.0, 4),
    ]  # fmt: skip
    assert measure.traffic(run, "a", 0.5) == measure.Traffic(200, 100, 2, 2)
    assert measure.traffic(run[:5], "a", 0.5) is None


def test_inner_steps_leave_fp32_its_share_of_the_window() -> None:
    link = Link(100e6, 0.03)
    for step_s in (0.05, 0.1, 0.2):
        inner_steps = equivalent.choose_inner_steps(link, step_s)
        assert equivalent.fp32_transfer_s(link) / (inner_steps * step_s) >= 0.5
    assert equivalent.choose_inner_steps(link, 100.0) == 2


def test_pauses_are_taken_out_of_the_clock() -> None:
    events = measure.without_pauses([version(at, 1) for at in (1, 4, 6, 9)], [Span(2, 5), Span(7, 8)])
    assert [event.wall_s for event in events] == [1, 2, 3, 5]


def test_a_version_counts_once_every_site_has_it() -> None:
    taken = [applied("a", 1), applied("b", 1), applied("a", 2)]
    assert measure.version_of_all(taken, ["a", "b"]) == 1
    assert measure.version_of_all([*taken, applied("b", 3)], ["a", "b"]) == 2
    assert measure.version_of_all(taken, ["a", "b", "c"]) == 0


def test_the_merged_share_is_of_samples_whose_fate_is_known() -> None:
    fates = [merged(0, 30), events.RangeDiscarded(wall_s=1, site="a", start=30, end=40, reason="stale")]
    assert measure.merged_share(fates) == pytest.approx(0.75)
    assert measure.merged_share([step(1.0)]) == 1


def test_the_gap_compares_the_best_rates() -> None:
    arm = loss_gap.Arm
    losses = {
        arm("sync", 2, 1e-3, 0, 1): 4.0, arm("sync", 2, 2e-3, 0, 1): 5.0,
        arm("int8", 2, 1e-3, 0, 1): 6.0, arm("int8", 2, 2e-3, 0, 1): 4.4,
        arm("int8", 1, 2e-3, 0, 1): 1.0,
    }  # fmt: skip
    assert loss_gap.best_rate(losses, "sync") == 1e-3
    assert loss_gap.best_rate(losses, "int8") == 2e-3
    other = arm("int8", 2, 2e-3, 0, 1, loss_gap.DEFAULTS)
    assert loss_gap.mean_loss({**losses, other: 0.1}, "int8", 2, 2e-3) == 4.4
    assert loss_gap.gap(4.4, 4.0) == pytest.approx(0.1)


def test_every_sample_is_read_once_however_many_sites() -> None:
    plan = Plan(num_sites=3, batch_size=4, num_steps=5)
    read = np.concatenate([plan.samples(step, site) for step in range(5) for site in range(3)])
    assert sorted(read.tolist()) == list(range(plan.num_samples))


@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_sites_stand_on_the_published_bits(codec: str) -> None:
    spec = loss_gap.spec("int8", loss_gap.OUTER)
    learner = make_learner(spec, 2)
    layout = make_layout(learner)
    flat = np.empty(layout.size, np.float32)
    layout.pack(learner.parameters(), flat)
    master = MasterState.from_flat(layout, flat + np.float32(0.5))
    with Site("a", learner, layout, OuterSpec(codec=codec, down_codec=codec)) as site:
        site.start(master.published)
        layout.pack(learner.parameters(), flat)
    assert np.array_equal(flat, np.concatenate(master.published))
