"""Folding events into a view and its figures; properties over made-up streams."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.journal import events as e
from isthmus.journal.alerts import alert_of
from isthmus.journal.curve import MAX_ROWS, Curve
from isthmus.journal.figures import figures
from isthmus.journal.fold import fold
from isthmus.journal.troubles import lane_of
from isthmus.journal.view import KEPT, RunView


def started(*sites: str) -> e.RunStarted:
    return e.RunStarted(
        wall_s=100.0,
        name="r",
        sites=list(sites),
        num_params=10,
        token_budget=1000,
        code_version="1",
        seq_len=4,
    )


def step(site: str, at_s: float, tokens: int = 100, step_s: float = 1.0, wait_s: float = 0.0) -> e.StepDone:
    return e.StepDone(
        wall_s=at_s, source=f"rank/{site}/0", site=site, step=1, tokens=tokens, loss=2.0, lr=1e-3,
        grad_norm=1.0, step_s=step_s, wait_s=wait_s, version=1,
    )  # fmt: skip


def published(version: int, at_s: float, tokens: int) -> e.VersionPublished:
    return e.VersionPublished(
        wall_s=at_s, source="server", version=version, server_epoch=1, sites=["a"], weights=[1.0],
        tokens=tokens, full_quorum=True, wait_s=0.0,
    )  # fmt: skip


def link(at_s: float, up: int, connected: bool = True, server: str = "") -> e.LinkSample:
    return e.LinkSample(
        wall_s=at_s, site="a", bytes_up=up, bytes_down=0, rtt_s=0.03, up_bps=1e8, down_bps=1e8,
        resent_chunks=0, connected=connected, server=server,
    )  # fmt: skip


def server(epoch: int, at_s: float) -> e.ServerStarted:
    return e.ServerStarted(
        wall_s=at_s, source="server", server_epoch=epoch, version=3, replayed=0, address="x"
    )


def test_equivalent_compute_is_the_runs_rate_over_the_sites_own():
    told = [started("a", "b")]
    told += [step("a", 101.0 + i, step_s=1.0, wait_s=0.5) for i in range(4)]  # pyright: ignore
    told += [step("b", 101.0 + i, step_s=1.0) for i in range(4)]  # pyright: ignore
    told += [published(1, 104.0, 600)]  # pyright: ignore
    shown = figures(fold(sorted(told, key=lambda event: event.wall_s)))
    assert shown.tokens_per_s == pytest.approx(600 / 4)
    assert shown.compute_tokens_per_s == pytest.approx(200 + 100)
    assert shown.equivalent_compute == pytest.approx(0.5)
    assert [site.waiting_share for site in shown.sites] == [0.5, 0.0]
    assert shown.progress == 0.6


def test_a_version_told_twice_counts_once():
    view = fold([published(1, 1.0, 10), published(2, 2.0, 10), published(2, 3.0, 10), published(1, 4.0, 10)])
    assert (view.version, view.num_merges, view.merged_tokens) == (2, 2, 20)
    assert view.sites["a"].merged == 2


def test_a_client_that_starts_again_does_not_lose_its_bytes():
    view = fold([link(1, 100), link(2, 250), link(3, 40), link(4, 60)])
    assert view.sites["a"].link.bytes_up == 250 + 60


def test_a_standbys_connection_is_counted_for_itself():
    view = fold([link(1, 100, server="x"), link(1, 7, server="y"), link(2, 200, server="x", connected=False)])
    assert view.sites["a"].link.bytes_up == 200 + 7
    assert view.sites["a"].link.connected
    assert not view.spans


def test_a_fault_that_does_not_last_is_a_moment():
    told = [e.Fault(wall_s=i, subject="site/a", kind="gradient_not_finite", detail="") for i in (1.0, 2.0)]
    assert [(span.start_s, span.end_s) for span in fold(told).spans] == [(1.0, 1.0), (2.0, 2.0)]


def test_a_version_shows_that_the_disk_takes_bytes_again():
    full = e.Fault(wall_s=5.0, subject="server", kind="disk_full", detail="")
    view = fold([published(1, 1.0, 10), full, published(2, 9.0, 10)])
    assert view.spans[0].end_s == 9.0


def test_faults_are_spans_on_their_sites_lane():
    view = fold([
        started("a", "a-b"),
        e.Fault(wall_s=101.0, subject="rank-a-b-0", kind="rank_died", detail="x"),
        e.Fault(wall_s=102.0, subject="rank-a-b-1", kind="rank_died", detail="x"),
        e.Recovered(wall_s=103.0, subject="rank-a-b-0", kind="rank_died", after_s=2.0),
        link(104.0, 1, connected=False),
    ])  # fmt: skip
    died, cut = view.spans
    assert (died.lane, died.start_s, died.end_s) == ("a-b", 101.0, 103.0)
    assert (cut.lane, cut.kind, cut.end_s) == ("a", "link_down", None)
    assert lane_of(view, "server") == "server"
    assert [site.state for site in figures(view).sites] == ["offline", "expected"]


def test_a_server_that_comes_back_leaves_an_outage():
    view = fold([server(1, 100.0), published(1, 110.0, 1), server(2, 120.0)])
    (outage,) = view.spans
    assert (outage.lane, outage.kind, outage.start_s, outage.end_s) == ("server", "server_down", 110.0, 120.0)
    died = e.Fault(wall_s=111.0, subject="server", kind="server_died", detail="kill -9")
    (told,) = fold([server(1, 100.0), published(1, 110.0, 1), died, server(2, 120.0)]).spans
    assert (told.kind, told.start_s, told.end_s) == ("server_died", 111.0, 120.0)


def test_states_of_a_site():
    view = fold([started("a"), step("a", 101.0)])
    assert figures(view, 102.0).sites[0].state == "training"
    assert figures(view, 300.0).sites[0].state == "silent"
    gone = fold([e.SiteLeft(wall_s=103.0, site="a", reason="silent for 30 s")], view)
    assert figures(gone).sites[0].state == "away"
    assert gone.spans[0].kind == "site_left"
    back = fold([e.SiteJoined(wall_s=104.0, site="a", incarnation=2, version=3)], gone)
    assert figures(back).sites[0].state == "training"
    assert back.spans[0].end_s == 104.0
    done = fold([e.RunFinished(wall_s=105.0, reason="budget", tokens=1)], back)
    assert figures(done).state == "budget"


def test_an_empty_journal_has_figures():
    shown = figures(RunView())
    assert shown.state == "starting"
    assert shown.equivalent_compute is None
    assert math.isnan(shown.loss)


def test_a_single_site_without_server_counts_what_it_trained():
    shown = figures(fold([started("a"), step("a", 101.0), step("a", 102.0)]))
    assert shown.tokens == 200
    assert shown.tokens_per_s == pytest.approx(100.0)


@given(st.integers(1, 5 * MAX_ROWS), st.integers(1, 3))
def test_a_curve_is_bounded_and_keeps_the_mean(count: int, width: int):
    curve = Curve()
    for i in range(count):
        curve = curve.add(*(float(i) for _ in range(width)))
    points = curve.points()
    assert len(points) <= MAX_ROWS
    weights = [curve.stride] * len(curve.rows) + ([curve.count] if curve.count else [])
    assert sum(weights) == count
    mean = sum(w * row[0] for w, row in zip(weights, points, strict=True)) / count
    assert mean == pytest.approx((count - 1) / 2)
    assert list(points) == sorted(points)


def test_what_is_kept_is_bounded():
    many = [e.Fault(wall_s=float(i), subject=str(i), kind="x", detail="") for i in range(3 * KEPT)]
    view = fold(many + [published(i, 1000.0 + i, 1) for i in range(1, 3 * KEPT)])
    assert len(view.spans) == len(view.alerts) == len(view.merges) == KEPT
    assert view.num_merges == 3 * KEPT - 1


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (e.Fault(subject="server", kind="server_died", detail="x"), "critical"),
        (e.Fault(subject="rank-a-0", kind="rank_died", detail="x"), "warning"),
        (e.SiteLeft(site="a", reason="silent"), "warning"),
        (e.SiteLeft(site="a", reason="budget"), None),
        (e.RunFinished(reason="failed: no site left", tokens=1), "critical"),
        (e.RunFinished(reason="budget", tokens=1), "info"),
        (e.CheckpointFailed(what="run", reason="full"), "warning"),
        (e.Quarantined(site="a", seq=1, reason="nan"), "warning"),
        (e.EventsDropped(count=3, reason="full"), "warning"),
        (e.Note(level="error", text="x"), "warning"),
        (e.Note(level="info", text="x"), None),
        (step("a", 1.0), None),
    ],
)
def test_which_events_are_alerts(event: e.AnyEvent, level: str | None):
    alert = alert_of(event)
    assert (alert.level if alert else None) == level


def test_a_flapping_link_is_one_outage_and_one_alert():
    told = [started("a")]
    for i in range(100):
        told += [link(200.0 + i, 1, connected=False), link(200.5 + i, 1)]  # pyright: ignore
        told += [e.Fault(wall_s=200.1 + i, subject="link/a", kind="link_down", detail=str(i))]  # pyright: ignore
    view = fold(sorted(told, key=lambda event: event.wall_s))
    assert len(view.spans) == len(view.alerts) == 1
    assert (view.spans[0].start_s, view.spans[0].end_s) == (200.0, 299.5)
    assert (view.alerts[0].times, view.alerts[0].last_s, view.alerts[0].text) == (100, 299.1, "99")
    later = e.Fault(wall_s=500.0, subject="link/a", kind="link_down", detail="")
    assert len(fold([later], view).alerts) == 2
