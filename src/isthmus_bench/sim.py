"""The protocol's simulator: how many seeded schedules a minute, and whether planted bugs are found."""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

from isthmus.outer.sim import Report, SimConfig, simulate
from isthmus.outer.sim.mutants import MUTANTS
from isthmus.sim.invariant import InvariantError
from isthmus.sim.mutants import hunt
from isthmus_bench.document import Result

SCHEDULES = 2000
QUICK_SCHEDULES = 100


def run(quick: bool) -> list[Result]:
    return [schedules(QUICK_SCHEDULES if quick else SCHEDULES), mutants(quick)]


def schedules(count: int) -> Result:
    """Seeds 0..count on all cores: each at least 3 sites, 20 rounds and 5 faults."""
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as processes:
        list(processes.map(outcome, range(cores)))  # imports
        start_s = time.perf_counter()
        outcomes = list(processes.map(outcome, range(count), chunksize=20))
        minutes = (time.perf_counter() - start_s) / 60
    broken = [seed for seed, found in enumerate(outcomes) if found.report is None]
    held = [found.report for found in outcomes if found.report]
    versions = [report.versions for report in held]
    cpu_s, faults = sum(found.cpu_s for found in outcomes), SimConfig().num_faults
    note = (
        f"broken={len(broken)} of {count} schedules {broken[:5] or ''}; each {faults} faults, "
        f">= {min(report.sites for report in held)} sites, >= {min(versions)} rounds (mean "
        f"{sum(versions) / len(versions):.0f}); {cores} cores, {count / cpu_s * 60:.0f} a minute of CPU time"
    )
    return Result("sim.schedules", count / minutes, "schedules/minute", {}, note)


class Outcome(NamedTuple):
    report: Report | None
    """None: an invariant was broken."""
    cpu_s: float


def outcome(seed: int) -> Outcome:
    start_s = time.process_time()
    try:
        report = simulate(seed, SimConfig())
    except InvariantError:
        report = None
    return Outcome(report, time.process_time() - start_s)


def mutants(quick: bool) -> Result:
    """Each planted bug must break an invariant in a schedule that passes without it, and do so again."""
    chosen = MUTANTS[:3] if quick else MUTANTS
    lines = []
    count = 0
    for mutant in chosen:
        found = hunt(mutant, simulate)
        count += found is not None
        lines.append(f"{mutant.name}: {f'seed {found.seed}' if found else 'NOT FOUND'}")
    note = f"found and replayed from its seed, of {len(chosen)} planted; " + ", ".join(lines)
    return Result("sim.mutants", count, "count", {}, note)
