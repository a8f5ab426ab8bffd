"""outer.server_restart.*: the parameter server is killed (kill -9) and comes back ten seconds later."""

import time
from collections.abc import Sequence
from contextlib import suppress

from isthmus.errors import IsthmusError
from isthmus.journal.events import AnyEvent, RunFinished, ServerStarted, VersionPublished
from isthmus.units import Count
from isthmus_bench.document import Result
from isthmus_bench.outer import measure, setup
from isthmus_bench.outer.fleet import Fleet, sites

CPUS = dict.fromkeys(sites(2), 0.8)
INNER_STEPS = 16
AWAY_S = 10.0
_FIRST_VERSIONS = 4
_BEFORE_S = 12.0
_FINISH_S = 300.0


def run(quick: bool) -> list[Result]:
    """About two minutes; half of it in quick mode."""
    spec = setup.spec(Count(_tokens(60.0 if quick else 120.0)), inner_steps=INNER_STEPS)
    with Fleet(spec, CPUS) as fleet:
        fleet.wait(lambda events: _versions(events) >= _FIRST_VERSIONS, 120.0)
        fleet.train_on(_BEFORE_S)
        killed_s = time.time()
        fleet.kill_server()
        fleet.train_on(AWAY_S)
        back_s = time.time()
        fleet.restart_server()
        with suppress(IsthmusError):  # a site that failed is counted below
            fleet.wait(_finished, _FINISH_S)
        exits = _exits(fleet)
        events = fleet.events
    before = measure.Span(killed_s - _BEFORE_S + 1.0, killed_s)
    during = measure.Span(killed_s, back_s)
    rates = [sum(measure.step_rate(events, site, span) for site in CPUS) for span in (before, during)]
    covered = measure.coverage(events, fleet.plan.total_samples)
    versions = [_versions([e for e in events if e.wall_s < at]) for at in (killed_s, float("inf"))]
    restarts = [event for event in events if isinstance(event, ServerStarted)]
    total = fleet.plan.total_samples * setup.SEQ_LEN
    lost = (
        f"of {total} tokens, those not merged exactly once ({covered.repeated} samples twice); killed at "
        f"version {versions[0]}, back after {AWAY_S:.0f} s with {restarts[-1].replayed} records replayed, "
        f"ended at version {versions[1]}"
    )
    rate = f"tokens/s of the sites while the server was away / before ({rates[0]:.0f})"
    return [
        _row("lost_tokens", (covered.missing + covered.repeated) * setup.SEQ_LEN, "count", lost),
        _row("site_exits", exits, "count", "clients and ranks that ended early or badly"),
        _row("rate_during", rates[1] / rates[0], "ratio", rate),
    ]


def _row(name: str, value: float, unit: str, note: str) -> Result:
    return Result(f"outer.server_restart.{name}", value, unit, note=note)


def _exits(fleet: Fleet) -> int:
    """Waits for the processes, which end by themselves once the run is over."""
    children = [child for place in fleet.places for child in place.children]
    deadline_s = time.monotonic() + 60.0
    while time.monotonic() < deadline_s and any(child.alive for child in children):
        time.sleep(0.1)
    return sum(child.exit_code != 0 for child in children)


def _versions(events: Sequence[AnyEvent]) -> int:
    return max((event.version for event in events if isinstance(event, VersionPublished)), default=0)


def _finished(events: Sequence[AnyEvent]) -> bool:
    return any(isinstance(event, RunFinished) for event in events)


def _tokens(duration_s: float) -> int:
    """About so long for two sites at the speed that a slow machine has."""
    return round(2 * duration_s * setup.BATCH * setup.SEQ_LEN / 0.175)
