"""faults.site_cut.*: three sites train one model; the link of one is cut for a minute."""

from collections.abc import Sequence
from statistics import median

from isthmus.journal.events import (
    AnyEvent,
    ContributionReceived,
    RangeDiscarded,
    StepDone,
    VersionApplied,
    VersionPublished,
)
from isthmus_bench.document import Result
from isthmus_bench.outer import setup
from isthmus_bench.outer.fleet import Fleet, Link, sites
from isthmus_bench.outer.measure import Span

CUT, *OTHERS = sites(3)
LINK = Link()
INNER_STEPS = 16
FIRST_VERSIONS = 3
BEFORE_S = 10.0
REJOIN_S = 60.0
"""Waited for at most."""
SLACK = 5.0
"""Usual step times that a step may take: a version that is taken up costs one or two."""


def run(quick: bool) -> list[Result]:
    cut_s = 15.0 if quick else 60.0
    spec = setup.spec(inner_steps=INNER_STEPS)
    with Fleet(spec, dict.fromkeys((CUT, *OTHERS), 0.5), link=LINK) as fleet:
        fleet.wait(lambda events: _versions(events) >= FIRST_VERSIONS, 120.0)
        start_s = fleet.train_on(3.0 if quick else BEFORE_S)[-1].wall_s
        fleet.star.cut(CUT, cut_s)
        fleet.train_on(cut_s)
        span = Span(start_s, start_s + cut_s)
        fleet.wait(lambda events: rejoined_s(events, CUT, span.end_s) is not None, REJOIN_S)
        fleet.train_on(3.0)
        events, kind = fleet.events, fleet.star.kind
    lost = {site: lost_steps(events, site, span) for site in OTHERS}
    published = _versions([e for e in events if span.start_s < e.wall_s < span.end_s])
    back_s = rejoined_s(events, CUT, span.end_s)
    note = (
        f"of the two other sites in a cut of {cut_s:.0f} s: steps that were not merged, and pauses in usual "
        f"steps; {published} versions published meanwhile; the third site did "
        f"{_steps(events, CUT, span)} steps by itself; {kind}"
    )
    late = "from the link's return to the first push or version that crosses it"
    return [
        Result("faults.site_cut.steps_lost", sum(lost.values()), "steps", note=note),
        Result("faults.site_cut.rejoin_s", back_s or float("inf"), "s", note=late),
    ]


def _versions(events: Sequence[AnyEvent]) -> int:
    return sum(isinstance(event, VersionPublished) for event in events)


def _steps(events: Sequence[AnyEvent], site: str, span: Span) -> int:
    return sum(
        isinstance(e, StepDone) and e.site == site and span.start_s < e.wall_s < span.end_s for e in events
    )


def rejoined_s(events: Sequence[AnyEvent], site: str, back_s: float) -> float | None:
    """From `back_s` to the site's first push that arrives, or version that it takes up."""
    crossed = (ContributionReceived, VersionApplied)
    times = [e.wall_s - back_s for e in events if isinstance(e, crossed) and e.site == site]
    return min((time_s for time_s in times if time_s > 0), default=None)


def lost_steps(events: Sequence[AnyEvent], site: str, span: Span) -> float:
    """Of a site that is not cut: steps whose samples were discarded, and steps that did not take place while
    it stood still.
    """
    within = [event for event in events if span.start_s < event.wall_s < span.end_s]
    gone = sum(e.end - e.start for e in within if isinstance(e, RangeDiscarded) and e.site == site)
    took = [event.step_s for event in within if isinstance(event, StepDone) and event.site == site]
    if not took:
        return float("inf")
    usual_s = median(took)
    stood = sum(step_s / usual_s - 1 for step_s in took if step_s > SLACK * usual_s)
    return gone / setup.BATCH + stood
