"""The protocol's simulator: how many seeded schedules a minute, and whether planted bugs are found."""

import time

from isthmus.outer.sim import SimConfig, simulate
from isthmus.outer.sim.checks import InvariantError
from isthmus.outer.sim.mutants import MUTANTS, hunt
from isthmus_bench.document import Result

SCHEDULES = 2000
QUICK_SCHEDULES = 100


def run(quick: bool) -> list[Result]:
    return [schedules(QUICK_SCHEDULES if quick else SCHEDULES), mutants(quick)]


def schedules(count: int) -> Result:
    """Seeds 0..count on one core: each at least 3 sites, 20 rounds and 5 faults."""
    config = SimConfig()
    broken: list[int] = []
    versions: list[int] = []
    sites: list[int] = []
    start_s = time.process_time()
    for seed in range(count):
        try:
            report = simulate(seed, config)
        except InvariantError:
            broken.append(seed)
            continue
        versions.append(report.versions)
        sites.append(report.sites)
    minutes = (time.process_time() - start_s) / 60
    note = (
        f"broken={len(broken)} of {count} schedules {broken[:5] or ''}; each {config.num_faults} faults, "
        f">= {min(sites)} sites, >= {min(versions)} rounds (mean {sum(versions) / len(versions):.0f})"
    )
    return Result("sim.schedules", count / minutes, "schedules/minute of one core", {}, note)


def mutants(quick: bool) -> Result:
    """Each planted bug must break an invariant in a schedule that passes without it, and do so again."""
    chosen = MUTANTS[:3] if quick else MUTANTS
    lines = []
    count = 0
    for mutant in chosen:
        found = hunt(mutant)
        count += found is not None
        lines.append(f"{mutant.name}: {f'seed {found.seed}' if found else 'NOT FOUND'}")
    note = f"found and replayed from its seed, of {len(chosen)} planted; " + ", ".join(lines)
    return Result("sim.mutants", count, "count", {}, note)
