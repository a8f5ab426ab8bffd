"""Figures from a run's journal. Pure: events in the order of their time -> numbers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from isthmus.journal.events import (
    AnyEvent,
    ContributionReceived,
    LinkSample,
    RangeDiscarded,
    RangeMerged,
    StepDone,
    VersionApplied,
    VersionPublished,
)


class Span(NamedTuple):
    """Wall-clock seconds, start included."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s

    def overlap_s(self, other: "Span") -> float:
        return max(0.0, min(self.end_s, other.end_s) - max(self.start_s, other.start_s))


def without_pauses(events: Iterable[AnyEvent], pauses: Sequence[Span]) -> list[AnyEvent]:
    """The events by a clock that stands still during the pauses."""

    def awake_s(at_s: float) -> float:
        return at_s - sum(min(pause.end_s, at_s) - pause.start_s for pause in pauses if pause.start_s < at_s)

    return [msgspec.structs.replace(event, wall_s=awake_s(event.wall_s)) for event in events]


def step_rate(events: Iterable[AnyEvent], site: str, span: Span) -> float:
    """Tokens/s that a site trained in `span`; of a step that lies across its border, the part inside."""
    return sum(event.tokens * _inside(event, span) for event in steps(events, site)) / span.length_s


def wait_share(events: Iterable[AnyEvent], site: str, span: Span) -> float:
    """Part of its steps' time that a site waited for the parameter server."""
    done = [(event, _inside(event, span)) for event in steps(events, site)]
    busy_s = sum(event.step_s * inside for event, inside in done)
    return sum(event.wait_s * inside for event, inside in done) / busy_s if busy_s else 0.0


def steps(events: Iterable[AnyEvent], site: str) -> list[StepDone]:
    return [event for event in events if isinstance(event, StepDone) and event.site == site]


def _inside(step: StepDone, span: Span) -> float:
    """Share of the step's time that lies in the span."""
    own = Span(step.wall_s - step.step_s, step.wall_s)
    return own.overlap_s(span) / own.length_s if own.length_s > 0 else 0.0


def common_span(events: Sequence[AnyEvent], sites: Sequence[str], skip_steps: int) -> Span:
    """The time in which all sites train, their first steps left out. Raises ValueError if there is none."""
    each = [steps(events, site)[skip_steps:] for site in sites]
    if not all(each):
        raise ValueError("a site did not get beyond its first steps")
    span = Span(max(done[0].wall_s for done in each), min(done[-1].wall_s for done in each))
    if span.length_s <= 0:
        raise ValueError("the sites never trained at the same time")
    return span


def merged_rate(events: Sequence[AnyEvent], site: str, skip: int = 1) -> float:
    """Tokens/s of a site that reached the model: from its `skip`-th push to its last, discarded ones taken
    off. Raises ValueError for fewer than two pushes after that.
    """
    pushes = [e for e in events if isinstance(e, ContributionReceived) and e.site == site][skip:]
    if len(pushes) < 2:
        raise ValueError(f"only {len(pushes)} pushes of {site} to measure")
    span = Span(pushes[0].wall_s, pushes[-1].wall_s)
    refused = {e.seq for e in _discarded(pushes, events, site)}
    return sum(push.tokens for push in pushes[1:] if push.seq not in refused) / span.length_s


def _discarded(
    pushes: Sequence[ContributionReceived], events: Sequence[AnyEvent], site: str
) -> list[ContributionReceived]:
    """Pushes followed by a discard of the site's ranges before its next push. A discard that is no
    contribution's (ranges given back) follows a push only when the site is lost or leaves.
    """
    bad: list[ContributionReceived] = []
    ends = [*(push.wall_s for push in pushes[1:]), float("inf")]
    for push, end_s in zip(pushes, ends, strict=True):
        if any(
            isinstance(e, RangeDiscarded) and e.site == site and push.wall_s <= e.wall_s < end_s
            and e.reason not in ("left", "timeout", "lost")
            for e in events
        ):  # fmt: skip
            bad.append(push)
    return bad


def version_of_all(events: Iterable[AnyEvent], sites: Sequence[str]) -> int:
    """The newest version that every site has taken up."""
    newest = dict.fromkeys(sites, 0)
    for event in events:
        if isinstance(event, VersionApplied):
            newest[event.site] = max(newest[event.site], event.version)
    return min(newest.values())


def merged_share(events: Iterable[AnyEvent]) -> float:
    """Of the samples whose fate is known, the part that was merged; 1 where none is known."""
    ends = {RangeMerged: 0, RangeDiscarded: 0}
    for event in events:
        if isinstance(event, RangeMerged | RangeDiscarded):
            ends[type(event)] += event.end - event.start
    return ends[RangeMerged] / sum(ends.values()) if sum(ends.values()) else 1.0


class Coverage(NamedTuple):
    missing: int
    """Samples of the budget that no merge has."""
    repeated: int
    """Samples that were merged more than once, each time counted."""


def coverage(events: Iterable[AnyEvent], budget: int) -> Coverage:
    """Whether every sample of the budget was merged exactly once."""
    merged = sorted((event.start, event.end) for event in events if isinstance(event, RangeMerged))
    covered, repeated, reached = 0, 0, 0
    for start, end in merged:
        fresh = max(0, end - max(start, reached))
        covered += fresh
        repeated += end - start - fresh
        reached = max(reached, end)
    return Coverage(budget - covered, repeated)


class Traffic(NamedTuple):
    """Between two moments at which nothing was under way."""

    bytes_up: int
    bytes_down: int
    pushes: int
    versions: int


def traffic(events: Sequence[AnyEvent], site: str, transfer_s: float) -> Traffic | None:
    """What crossed a site's link from its first quiet sample after a push to its last, with the pushes and
    versions between. None if fewer than two samples are quiet, as in a short run.

    Args:
        transfer_s: longest time that one transfer takes; samples this near to an arrival are not quiet.
    """
    pushes = [e.wall_s for e in events if isinstance(e, ContributionReceived) and e.site == site]
    versions = [e.wall_s for e in events if isinstance(e, VersionPublished)]
    busy = [Span(at - transfer_s, at) for at in pushes] + [Span(at, at + transfer_s) for at in versions]
    samples = [e for e in events if isinstance(e, LinkSample) and e.site == site and e.connected]
    quiet = [
        e for e in samples
        if pushes and e.wall_s > pushes[0] and not any(s.start_s <= e.wall_s <= s.end_s for s in busy)
    ]  # fmt: skip
    if len(quiet) < 2:
        return None
    first, last = quiet[0], quiet[-1]
    return Traffic(
        last.bytes_up - first.bytes_up,
        last.bytes_down - first.bytes_down,
        sum(first.wall_s < at < last.wall_s for at in pushes),
        sum(first.wall_s < at < last.wall_s for at in versions),
    )
