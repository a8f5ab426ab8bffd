"""Incidents: opened, diagnosed, healed; what they cost. Made-up journals, and properties over random ones."""

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.journal import events as e
from isthmus.journal.figures import figures
from isthmus.journal.fold import fold
from isthmus.journal.incident_changes import LINES, TEXT
from isthmus.journal.incidents import (
    CONDITIONS,
    UNDIAGNOSED,
    Incident,
    length_s,
    phases,
    total_s,
)
from isthmus.journal.rates import Rates
from isthmus.journal.view import KEPT, RunView

AGENT = "agent/jinan"
DOWN = "rank-jinan-2"


def step(
    number: int, at_s: float, step_s: float = 1.0, wait_s: float = 0.0, site: str = "jinan"
) -> e.StepDone:
    return e.StepDone(
        wall_s=at_s, source=f"rank/{site}/0", site=site, step=number, tokens=100, loss=2.0, lr=1e-3,
        grad_norm=1.0, step_s=step_s, wait_s=wait_s, version=1,
    )  # fmt: skip


def fault(
    at_s: float, subject: str = DOWN, kind: str = "rank_died", began_s: float = 0.0, source: str = AGENT
):
    return e.Fault(wall_s=at_s, source=source, subject=subject, kind=kind, detail="exit -9", began_s=began_s)


def diagnosed(
    at_s: float, subject: str = DOWN, victims: list[str] | None = None, action: str = "replace_node"
):
    return e.Diagnosed(
        wall_s=at_s, source=AGENT, subject=subject, fault_class="ecc", entry="XID-48", action=action,
        confidence=0.97, cause="double bit error", verify="dcgmi diag -r 3 passes",
        evidence=["kern.log:7: NVRM: Xid 48"], victims=victims or [],
    )  # fmt: skip


def healed(
    at_s: float, began_s: float, subjects: list[str] | None = None, generation: int = 1, lost_steps: int = 0
):
    """Found after 0.1 s, diagnosed after 0.3 s, regrouped after 0.6 s, resumed 0.1 s before it is told."""
    return e.Healed(
        wall_s=at_s, source=AGENT, site="jinan", subjects=[DOWN] if subjects is None else subjects,
        kind="restart_rank", generation=generation, step=12, lost_steps=lost_steps, began_s=began_s,
        detected_s=began_s + 0.1, diagnosed_s=began_s + 0.3, regrouped_s=began_s + 0.6, resumed_s=at_s - 0.1,
    )  # fmt: skip


def lengths(incident: Incident) -> list[float | None]:
    return [length_s(incident, name) for name in ("detect", "diagnose", "regroup", "resume")]


def test_a_fault_is_found_diagnosed_and_healed_below_a_second():
    told = [fault(10.1, began_s=10.0), diagnosed(10.32), healed(11.0, 10.0, lost_steps=2)]
    opened = fold(told[:1]).incidents[0]
    assert opened.is_open
    assert (opened.lane, opened.began_s, opened.detected_s) == ("jinan", 10.0, 10.1)
    view = fold(told)
    (incident,) = view.incidents
    assert (incident.fault_class, incident.entry, incident.done) == ("ecc", "XID-48", "restart_rank")
    assert (incident.generation, incident.lost_steps) == (1, 2)
    assert lengths(incident) == pytest.approx([0.1, 0.2, 0.3, 0.3])
    assert total_s(incident) == pytest.approx(0.9)
    for tally in (view.tally, view.sites["jinan"].tally):
        assert (tally.count, tally.closed, tally.lost_steps, tally.by_class) == (1, 1, 2, {"ecc": 1})
        assert (tally.total_s, tally.last_total_s) == pytest.approx((0.9, 0.9))
    assert view.spans[0].end_s == 11.0


def test_several_faults_are_ended_by_one_heal():
    told = [fault(10.1), fault(10.2, "rank-jinan-3"), fault(10.2, "link/jinan", "link_down")]
    view = fold([*told, healed(11.0, 10.0, [DOWN], lost_steps=3)])
    first, second, link = view.incidents
    assert first.resumed_s == second.resumed_s == 10.9
    assert (first.began_s, second.began_s) == (10.0, 10.2)
    assert link.is_open
    assert view.tally.lost_steps == 3
    again = fold([healed(11.0, 10.0, [DOWN], lost_steps=3)], view)
    assert (again.incidents, again.tally) == (view.incidents, view.tally)


def test_a_slow_rank_stays_open_until_it_is_named():
    slow = fault(5.0, "rank-jinan-7", "fail_slow")
    view = fold([slow, fault(10.0), healed(11.0, 10.0)])
    assert [incident.is_open for incident in view.incidents] == [True, False]
    view = fold([healed(21.0, 20.0, ["rank-jinan-7"], generation=2)], view)
    assert not any(incident.is_open for incident in view.incidents)


def test_a_slow_rank_that_dies_is_two_incidents_and_one_recovery():
    view = fold([fault(5.0, kind="fail_slow"), fault(1000.0), healed(1001.0, 999.9)])
    assert [incident.kind for incident in view.incidents] == ["fail_slow", "rank_died"]
    assert not any(incident.is_open for incident in view.incidents)
    assert (view.tally.closed, view.tally.last_total_s) == (1, pytest.approx(1.0))


def test_what_passes_by_itself_is_over_with_the_next_whole_step():
    told = [step(1, 9.5), fault(10.0, "site jinan", "nan"), fault(10.0, "rank-jinan-7", "fail_slow")]
    across = fold([*told, step(2, 10.5)])
    assert [incident.is_open for incident in across.incidents] == [True, True]
    after = fold([step(3, 11.6)], across)
    assert [incident.resumed_s for incident in after.incidents] == [pytest.approx(10.6), 0.0]


def test_times_that_an_agent_does_not_know_are_no_phases():
    """It tells the detection again where there was no diagnosis, and a time long ago for none at all."""
    heal = replace(healed(11.0, 10.0), diagnosed_s=10.1, regrouped_s=3.0)
    (incident,) = fold(
        [fault(10.15, "site jinan", "comm_error", began_s=10.0), replace(heal, subjects=[])]
    ).incidents
    assert lengths(incident) == [pytest.approx(0.1), None, None, pytest.approx(0.8)]
    assert incident.subject == "site jinan"


def test_a_rank_is_in_trouble_once_at_a_time():
    view = fold([fault(10.0, kind="hang"), fault(10.5), diagnosed(10.6), diagnosed(10.7), fault(10.8)])
    (incident,) = view.incidents
    assert incident.kind == "hang"
    assert "rank_died" in incident.detail
    assert incident.diagnosed_s == 10.6
    assert view.tally.by_class == {"ecc": 1}


def test_a_diagnosis_names_the_victims_too():
    view = fold([fault(10.0), fault(10.0, "rank-jinan-3"), diagnosed(10.1, victims=["rank-jinan-3"])])
    assert [incident.fault_class for incident in view.incidents] == ["ecc", "secondary"]
    assert DOWN in view.incidents[1].cause


def test_a_diagnosis_of_the_site_goes_to_what_its_ranks_have_open():
    view = fold([fault(9.0, "link/jinan", "link_down"), fault(10.0), diagnosed(10.1, subject="jinan")])
    assert [incident.fault_class for incident in view.incidents] == ["", "ecc"]


def test_a_link_that_gets_worse_is_an_incident_until_its_client_tells_that_it_is_over():
    worse = fault(9.0, "link/jinan", "network_degraded", source="site/jinan")
    (open_,) = fold([step(1, 1.0), worse]).incidents
    assert open_.is_open
    over = e.Recovered(wall_s=99.0, subject="link/jinan", kind="network_degraded", after_s=90.0)
    (closed,) = fold([step(1, 1.0), worse, over]).incidents
    assert (closed.is_open, closed.lane, closed.resumed_s) == (False, "jinan", 99.0)


def test_a_diagnosis_or_a_heal_without_a_fault_is_an_incident():
    (incident,) = fold([diagnosed(10.0)]).incidents
    assert incident.is_open
    assert incident.kind == "ecc"
    (late,) = fold([diagnosed(10.0), fault(10.2, began_s=9.5)]).incidents
    assert (late.kind, late.began_s) == ("rank_died", 9.5)
    (alone,) = fold([healed(11.0, 10.0, [])]).incidents
    assert (alone.subject, alone.began_s, alone.resumed_s) == ("jinan", 10.0, 10.9)
    assert lengths(alone) == pytest.approx([0.1, 0.2, 0.3, 0.3])


def test_a_diagnosis_after_the_recovery_still_belongs_to_it():
    view = fold([fault(10.0), healed(11.0, 10.0), diagnosed(15.0)])
    (incident,) = view.incidents
    assert incident.fault_class == "ecc"
    assert total_s(incident) == pytest.approx(0.9)
    assert view.tally.by_class == {UNDIAGNOSED: 1}


def test_a_better_diagnosis_after_the_recovery_replaces_the_first():
    better = replace(diagnosed(15.0), fault_class="", entry="", cause="no entry fits")
    view = fold([fault(10.0), diagnosed(10.2), healed(11.0, 10.0), better])
    (incident,) = view.incidents
    assert (incident.fault_class, incident.entry, incident.cause) == ("unknown", "", "no entry fits")
    assert incident.diagnosed_s == pytest.approx(10.3)
    assert view.tally.by_class == {"ecc": 1}
    (of_site,) = fold([fault(10.0), healed(11.0, 10.0), diagnosed(15.0, subject="site jinan")]).incidents
    assert (of_site.subject, of_site.fault_class) == (DOWN, "ecc")


@pytest.mark.parametrize("behind_s", [0.0, 1.5])
def test_order_between_sources_is_only_by_time(behind_s: float):
    """A rank's own clock may be ahead: what it tells then comes after the heal that ended it."""
    told = [fault(10.1 + behind_s, began_s=10.0), diagnosed(10.3), healed(11.0, 10.0)]
    view = fold(sorted(told, key=lambda event: event.wall_s))
    (incident,) = view.incidents
    assert not incident.is_open
    assert total_s(incident) == pytest.approx(0.9)


def test_a_fault_after_the_group_went_on_is_another_one():
    view = fold([fault(10.0), fault(10.95, "rank-jinan-3"), healed(11.0, 10.0)])
    assert [incident.is_open for incident in view.incidents] == [False, True]


def test_faults_of_the_launcher_end_with_their_recovery_and_flap_as_one():
    told = []
    for i in range(5):
        told += [fault(100.0 + i, "link/jinan", "link_down", source="site/jinan")]
        told += [e.Recovered(wall_s=100.5 + i, subject="link/jinan", kind="link_down", after_s=0.5)]
    view = fold(told)
    (incident,) = view.incidents
    assert (incident.times, total_s(incident)) == (5, 4.5)
    assert view.tally.by_class == {UNDIAGNOSED: 1}
    assert (view.tally.count, view.tally.closed, view.tally.total_s) == (1, 1, 4.5)


def test_the_server_is_an_incident_too_and_a_moment_is_none():
    died = fault(50.0, "server", "server_died", source="launcher")
    back = e.ServerStarted(wall_s=53.0, source="server", server_epoch=2, version=3, replayed=0, address="x")
    moment = fault(60.0, "site/jinan", "gradient_not_finite", source="rank/jinan/0")
    view = fold([died, back, moment])
    (incident,) = view.incidents
    assert (incident.lane, total_s(incident)) == ("server", 3.0)


def test_a_recovery_and_a_heal_of_the_same_are_one():
    told = [
        fault(10.0),
        e.Recovered(wall_s=10.8, subject=DOWN, kind="rank_died", after_s=0.8),
        healed(11.0, 10.0),
    ]
    (incident,) = fold(told).incidents
    assert (incident.done, incident.resumed_s) == ("restart_rank", 10.9)


def test_what_is_open_at_the_end_stays_open():
    view = fold([fault(10.0), e.RunFinished(wall_s=20.0, reason="failed: x", tokens=1)])
    (incident,) = view.incidents
    assert incident.is_open
    assert total_s(incident) is None
    assert [(phase.name, phase.end_s) for phase in phases(incident, 20.0)] == [
        ("detect", 10.0),
        ("resume", 20.0),
    ]


def test_ten_thousand_incidents_stay_bounded():
    told = [fault(1.0, "rank-jinan-0", "hang")]
    for i in range(10_000):
        at_s = 10.0 + 2 * i
        told += [fault(at_s, f"rank-jinan-{1 + i % 3000}"), e.Note(wall_s=at_s, level="info", text="")]
        made = e.Diagnosed(
            wall_s=at_s + 0.1, source=AGENT, subject=f"rank-jinan-{1 + i % 3000}", fault_class=f"c{i}",
            entry="x" * 5000, action="retry", confidence=1.0, cause="y" * 5000, verify="",
            evidence=["z" * 5000] * 50,
        )  # fmt: skip
        over = e.Recovered(wall_s=at_s + 1, subject=made.subject, kind="rank_died", after_s=1.0)
        told += [made, over]
    view = fold(told)
    assert len(view.incidents) == KEPT
    assert view.incidents[0].subject == "rank-jinan-0"
    assert view.tally.count == 10_001
    assert view.tally.closed == 10_000
    assert sum(view.tally.by_class.values()) == 10_000
    assert len(view.tally.by_class) <= 65
    assert all(len(line) <= TEXT for line in view.incidents[-1].evidence)
    assert len(view.incidents[-1].evidence) == LINES
    stuck = fold([fault(1.0 + i, f"rank-jinan-{i}") for i in range(1000)])
    assert len(stuck.incidents) == KEPT


def test_steps_told_twice_are_repeated_ones():
    before = [step(i, float(i)) for i in range(1, 11)]
    again = [step(i, 20.0 + i - 8) for i in range(9, 14)]
    unminded = fold([*before, *again]).sites["jinan"]
    assert (unminded.steps, unminded.tokens, unminded.repeated_steps) == (15, 1500, 0)
    site = fold([*before, fault(10.5), healed(20.1, 10.4), *again]).sites["jinan"]
    assert (site.steps, site.tokens) == (13, 1300)
    assert (site.repeated_steps, site.repeated_tokens, site.repeated_s) == (2, 200, 2.0)
    assert site.compute_s == pytest.approx(13.0)
    assert site.outage_s == pytest.approx(9.6)
    resumed = e.RunStarted(
        wall_s=90.0, name="r", sites=["jinan"], num_params=1, token_budget=1, code_version="1"
    )
    site = fold([*before, fault(10.5), healed(20.1, 10.4), resumed, step(1, 100.0)]).sites["jinan"]
    assert (site.steps, site.repeated_steps) == (11, 0)


@pytest.mark.parametrize("heal_first", [True, False])
def test_an_outage_inside_a_step_is_no_time_in_it(heal_first: bool):
    """The lead lives on, so that its next step seems to last as long as the outage."""
    across = step(2, 14.0, step_s=4.0)
    heal = replace(healed(13.6, 10.5), wall_s=13.6 if heal_first else 14.2)
    site = fold([step(1, 10.0), *([heal, across] if heal_first else [across, heal])]).sites["jinan"]
    assert site.compute_s == pytest.approx(1.0 + 4.0 - 3.0)
    assert site.outage_s == pytest.approx(3.0)


def test_heals_that_overlap_are_no_outage_twice():
    view = fold([healed(20.1, 10.0), healed(25.1, 15.0, generation=2), healed(26.1, 16.0, generation=3)])
    assert view.sites["jinan"].outage_s == pytest.approx(16.0)


def test_the_median_rate_is_near_the_true_one():
    rates = Rates()
    values = [1000.0 + 7 * (i * 7919 % 401) for i in range(401)]
    for value in values:
        rates = rates.add(value)
    assert rates.median() == pytest.approx(sorted(values)[200], rel=0.02)
    assert Rates().add(0.0).add(float("nan")).add(float("inf")).median() == 0.0
    assert Rates().add(1.0).add(1e300).add(1e-300).median() == pytest.approx(1.0)


subjects = st.sampled_from([DOWN, "rank-jinan-3", "rank-qingdao-0", "server", "link/jinan", "jinan"])
kinds = st.sampled_from(["rank_died", "hang", "link_down", "server_died", "fail_slow", "moment"])
times = st.sampled_from([0.0, 1.0, 50.0, 99.9, 100.0, 100.4, 101.0, 1e9, -1.0])


@st.composite
def an_event(draw: st.DrawFn) -> e.AnyEvent:
    source = draw(st.sampled_from([AGENT, "launcher", "rank/jinan/0"]))
    subject, kind = draw(subjects), draw(kinds)
    match draw(st.sampled_from("fdhrsj")):
        case "f":
            return e.Fault(source=source, subject=subject, kind=kind, detail="d", began_s=draw(times))
        case "d":
            return e.Diagnosed(
                source=source, subject=subject, fault_class=draw(st.sampled_from("xyz")), entry="E",
                action="retry", confidence=0.5, cause="c", verify="v", evidence=["l"],
                victims=[draw(subjects)],
            )  # fmt: skip
        case "h":
            began_s, detected_s, diagnosed_s, regrouped_s, resumed_s = (draw(times) for _ in range(5))
            return e.Healed(
                source=source, site="jinan", subjects=draw(st.lists(subjects, max_size=2)), kind="retry",
                generation=draw(st.integers(0, 5)), step=3, lost_steps=draw(st.integers(0, 3)),
                began_s=began_s, detected_s=detected_s, diagnosed_s=diagnosed_s, regrouped_s=regrouped_s,
                resumed_s=resumed_s,
            )  # fmt: skip
        case "r":
            return e.Recovered(source=source, subject=subject, kind=kind, after_s=1.0)
        case "s":
            return step(draw(st.integers(1, 5)), 0.0, wait_s=0.2)
        case _:
            return e.ServerStarted(source="server", server_epoch=2, version=1, replayed=0, address="x")


def timed(told: list[e.AnyEvent], gaps: list[float]) -> list[e.AnyEvent]:
    at = itertools.accumulate(gaps, initial=98.0)
    fields = [{name: getattr(event, name) for name in event.__struct_fields__} for event in told]
    return [type(event)(**{**of, "wall_s": next(at)}) for event, of in zip(told, fields, strict=True)]


@settings(deadline=None)
@given(st.data())
def test_whatever_is_told_the_incidents_add_up(data: st.DataObject):
    told = data.draw(st.lists(an_event(), max_size=30))
    gap = st.sampled_from([0.0, 0.1, 0.5, 3.0])
    told = timed(told, data.draw(st.lists(gap, min_size=len(told), max_size=len(told))))
    view = fold(told)
    middle = data.draw(st.integers(0, len(told)))
    assert fold(told[middle:], fold(told[:middle])) == view
    over = [old for old in view.incidents if not old.is_open and old.kind not in CONDITIONS]
    assert view.tally.count == len(view.incidents)
    assert view.tally.closed == len(over)
    assert view.tally.total_s == pytest.approx(sum(total_s(incident) or 0.0 for incident in over))
    assert sum(view.tally.by_class.values()) == sum(incident.is_counted for incident in view.incidents)
    for incident in view.incidents:
        found = phases(incident, view.last_s)
        assert all(phase.end_s >= phase.start_s for phase in found)
        assert all(first.end_s == second.start_s for first, second in itertools.pairwise(found))
        if not incident.is_open:
            parts = sum(phase.end_s - phase.start_s for phase in found)
            assert parts == pytest.approx(total_s(incident))
    for site in view.sites.values():
        assert min(site.compute_s, site.repeated_s, site.outage_s) >= 0
        assert isinstance(view, RunView)


def test_ettr_and_goodput_of_a_run_with_a_heal():
    """8 steps of 1 s, 2 s down, 2 steps again, a new one, 1 s of nothing, one that waits for half of it."""
    before = [step(i, 100.0 + i) for i in range(1, 9)]
    after = [step(7, 111.0), step(8, 112.0), step(9, 113.0), step(10, 116.0, step_s=2.0, wait_s=1.0)]
    told = [*before, fault(108.1, began_s=108.0), healed(110.1, 108.0, lost_steps=2), *after]
    shown = figures(fold(told))
    (site,) = shown.sites
    time = site.time
    assert (time.wall_s, time.effective_s, time.repeated_s) == pytest.approx((16.0, 10.0, 2.0))
    assert (time.outage_s, time.waiting_s, time.between_s) == pytest.approx((2.0, 1.0, 1.0))
    assert site.ettr == shown.ettr == pytest.approx(10 / 16)
    assert site.goodput == shown.goodput == pytest.approx(1000 / 16 / 100)
    assert (site.tokens, site.steps) == (1000, 10)
    assert (shown.recovery.lost_steps, shown.recovery.repeated_steps, shown.recovery.incidents) == (2, 2, 1)
    assert shown.recovery.last_recovery_s == shown.incidents[0].total_s == pytest.approx(2.0)
    silent = figures(fold(told), now_s=148.0)
    assert silent.ettr == pytest.approx(10 / 48)


def test_ettr_of_sites_is_weighted_by_their_time_and_ends_with_the_run():
    told: list[e.AnyEvent] = [step(i, 100.0 + i) for i in range(1, 101)]
    told += [replace(step(i, 100.0 + i), site="qingdao") for i in range(1, 21)]
    told += [e.RunFinished(wall_s=201.0, reason="budget", tokens=1)]
    shown = figures(fold(sorted(told, key=lambda event: event.wall_s)))
    assert [site.ettr for site in shown.sites] == pytest.approx([1.0, 0.2])
    assert shown.ettr == pytest.approx(120 / 200)
    left = [e.SiteLeft(wall_s=121.0, site="qingdao", reason="drained")]
    shown = figures(fold(sorted([*told, *left], key=lambda event: event.wall_s)))
    assert [site.ettr for site in shown.sites] == pytest.approx([1.0, 1.0])
    assert figures(RunView()).ettr is None


def test_incidents_reach_json_whole():
    shown = figures(fold([fault(10.1, began_s=10.0), diagnosed(10.32)]), now_s=20.0)
    (told,) = msgspec.json.decode(msgspec.json.encode(shown))["incidents"]
    assert told["open"]
    assert told["total_s"] is None
    assert told["detect_s"] == pytest.approx(0.1)
    assert (told["subject"], told["evidence"]) == (DOWN, ["kern.log:7: NVRM: Xid 48"])
