"""(job, days, seed) -> what failures leave of its tokens, second by second. Pure."""

from collections.abc import Sequence

import msgspec

from isthmus.errors import InputError
from isthmus.planner.failures.draws import episodes, strikes
from isthmus.planner.failures.job import Job, SiteJob, check_job
from isthmus.planner.failures.pace import NEVER, Line, Pace, line_of, micros
from isthmus.planner.failures.unit import ALL, SERVER_POOL, USEFUL, Pool, Strike, Times, Unit

DAY_S = 86_400.0
MAX_FAILURES = 500_000
"""Expected in one replay; some twenty seconds."""
MAX_OUTAGES = 10_000
"""Kept of a replay, for a picture."""


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """From a failure until training goes on, or a restart that takes nodes back into use."""

    site: str
    start_s: float
    end_s: float


class SiteOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One site's part."""

    name: str
    goodput: float
    tokens: float
    failures: int
    """Of nodes; those that hit a machine which stood idle for want of others included."""
    spent_s: dict[str, float]
    """All its seconds by what they went on; they add up to those of the replay."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found."""

    days: float
    seed: int
    goodput: float
    """Tokens that stayed, over those of a run that trains all the time: no failure, checkpoint or waiting."""
    tokens: float
    failures: int
    server_failures: int
    spent_s: dict[str, float]
    """The sites' seconds, each weighted by its part in the rate of tokens."""
    sites: list[SiteOutcome]
    outages: list[Outage]
    """By site in order of time; the first `MAX_OUTAGES`."""


def replay(job: Job, days: float, seed: int = 0) -> Outcome:
    """Replays `days` of the job. The same job, days and seed give the same outcome.

    Failures: a Poisson process per site (`draws`). Every second of every site goes to one cause, counted in
    whole microseconds. Raises InputError for a job that cannot be, a seed below 0, days <= 0, and more
    failures than `MAX_FAILURES`.
    """
    check_job(job)
    if seed < 0:
        raise InputError(f"a seed of {seed}", where="seed", hint="0 or more")
    if not 0 < days < 1e5:
        raise InputError(f"{days:g} days", where="days", hint="more than 0, at most 100,000")
    expected = days * DAY_S / job.mtbf_s
    if expected > MAX_FAILURES:
        hint = f"at most {MAX_FAILURES:,}: replay fewer days, or a longer MTBF"
        raise InputError(f"{expected:.3g} failures are to be expected", where="days", hint=hint)
    server = strikes(seed, "server", 1 / job.server_mtbf_s if job.server_mtbf_s else 0.0, days * DAY_S)
    lost = _server_strikes(job, server.times_s.tolist())
    groups = [job.sites] if job.mode == "none" else [[site] for site in job.sites]
    units = [_unit(job, group, seed, days, lost) for group in groups]
    paces = [_pace(job, group, seed, days) for group in groups]
    if job.mode == "elastic":
        for unit, pace in zip(units, paces, strict=True):
            _drive([unit], [pace])
    else:
        _drive(units, paces)
    return _outcome(job, units, len(server.times_s), (days, seed))


def _server_strikes(job: Job, times_s: Sequence[float]) -> list[Strike]:
    """None where the sites do not notice."""
    if job.mode == "none" or job.takeover_s <= job.reserve_s:
        return []
    return [Strike(micros(at), SERVER_POOL, 0.0) for at in times_s]


def _unit(job: Job, sites: Sequence[SiteJob], seed: int, days: float, server: list[Strike]) -> Unit:
    merged = list(server)
    for pool, site in enumerate(sites):
        found = strikes(seed, f"site {site.name}", site.failures_per_s, days * DAY_S)
        pairs = zip(found.times_s.tolist(), found.marks.tolist(), strict=True)
        merged += [Strike(micros(at), pool, mark) for at, mark in pairs]
    times = Times(
        detect=micros(max(site.detect_s for site in sites)),
        restart=micros(max(site.restart_s + site.read_s for site in sites)),
        durable=micros(max(site.checkpoint_durable_s for site in sites)) if job.mode == "none" else 0,
        server=micros(max(0.0, job.takeover_s - job.reserve_s)),
    )
    pools = [Pool(site.nodes, site.spares, micros(site.repair_s), site.replica_nodes) for site in sites]
    return Unit(pools, sorted(merged), times, micros(days * DAY_S), job.shrink)


def _pace(job: Job, sites: Sequence[SiteJob], seed: int, days: float) -> Pace:
    step_s = max(site.step_s for site in sites)
    pause_s = max(site.checkpoint_pause_s for site in sites)
    if job.mode == "none":
        work, pause = micros(job.interval_s) if job.interval_s else NEVER, micros(pause_s)
    else:
        window_s = window_steps(job, sites[0]) * step_s
        work, pause = micros(window_s), micros(pause_s * window_s / job.interval_s) if job.interval_s else 0
    return Pace(
        step=max(1, micros(step_s)),
        work=max(1, work),
        pause=pause,
        lines=[_line(site, seed, days) for site in sites if site.line.transfer_s],
        is_inside=job.mode == "none",
        overlap=None if job.overlap_s is None else micros(job.overlap_s),
    )


def window_steps(job: Job, site: SiteJob) -> int:
    """H of a site: strict sites take as many steps as the fastest, elastic ones as many seconds."""
    if job.mode != "elastic":
        return job.inner_steps
    fastest_s = min(each.step_s for each in job.sites)
    return max(1, round(job.inner_steps * fastest_s / site.step_s))


def _line(site: SiteJob, seed: int, days: float) -> Line:
    of = site.line
    slow = episodes(seed, f"line {site.name}", of.slow_per_day, of.slow_s, days * DAY_S)
    return line_of(of.transfer_s, of.slow_factor, slow)


def _drive(units: Sequence[Unit], paces: Sequence[Pace]) -> None:
    """To the end of time, in rounds: each works one cycle, waits for its result, then for the others."""
    while any(unit.now < unit.end for unit in units):
        if len({unit.now for unit in units}) == 1:
            _repeat(units, paces)
        for unit, pace in zip(units, paces, strict=True):
            unit.complete(pace.cycle(unit.now))
            unit.hold(pace.result(unit.now), "link")
        barrier = max(unit.now for unit in units)
        for unit in units:
            unit.hold(barrier, "other sites")


def _repeat(units: Sequence[Unit], paces: Sequence[Pace]) -> None:
    """All rounds that nothing disturbs, at once."""
    now = units[0].now
    cycles = [pace.cycle(now) for pace in paces]
    pushes = [now + cycle.length for cycle in cycles]
    waits = [pace.result(push) - push for pace, push in zip(paces, pushes, strict=True)]
    length = max(push - now + wait for push, wait in zip(pushes, waits, strict=True))
    quiet = min(min(unit.next_event, unit.end) for unit in units)
    quiet = min(quiet, *(pace.quiet_until(now) for pace in paces))
    rounds = max(0, (quiet - now) // length)
    for unit, cycle, wait in zip(units, cycles, waits, strict=True):
        unit.repeat(cycle, rounds)
        unit.idle(rounds * wait, "link")
        unit.idle(rounds * (length - cycle.length - wait), "other sites")


def _outcome(job: Job, units: Sequence[Unit], server_failures: int, of: tuple[float, int]) -> Outcome:
    spread = [units[0]] * len(job.sites) if job.mode == "none" else units
    pools = [pool for unit in units for pool in unit.pools]
    rates = [site.step_tokens / job.pace_s(site) for site in job.sites]
    sites = [
        SiteOutcome(
            name=site.name,
            goodput=unit.spent[USEFUL] / unit.end,
            tokens=rate * unit.spent[USEFUL] / 1e6,
            failures=pool.failures,
            spent_s={cause: unit.spent[cause] / 1e6 for cause in ALL},
        )
        for site, unit, pool, rate in zip(job.sites, spread, pools, rates, strict=True)
    ]
    parts = [rate / sum(rates) for rate in rates]
    return Outcome(
        days=of[0],
        seed=of[1],
        goodput=sum(part * site.goodput for part, site in zip(parts, sites, strict=True)),
        tokens=sum(site.tokens for site in sites),
        failures=sum(site.failures for site in sites),
        server_failures=server_failures,
        spent_s={
            cause: sum(part * site.spent_s[cause] for part, site in zip(parts, sites, strict=True))
            for cause in ALL
        },
        sites=sites,
        outages=_outages(job, units),
    )


def _outages(job: Job, units: Sequence[Unit]) -> list[Outage]:
    names = ["all sites" if len(job.sites) > 1 else job.sites[0].name]
    if job.mode != "none":
        names = [site.name for site in job.sites]
    return [
        Outage(site=name, start_s=start / 1e6, end_s=end / 1e6)
        for name, unit in zip(names, units, strict=True)
        for start, end in unit.outages
    ][:MAX_OUTAGES]
