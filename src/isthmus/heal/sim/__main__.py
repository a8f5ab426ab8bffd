"""`python -m isthmus.heal.sim --seeds 1000 [--first 0] [--json]`: many schedules, and what came of them.

stdout: the summary; stderr: each seed that failed, with the command that repeats it. Exit 5 if one did.
"""

import argparse
import statistics
import sys
import time
from collections import Counter

import msgspec

from isthmus.heal.sim.mutants import MUTANTS
from isthmus.heal.sim.world import Report, SimConfig, simulate
from isthmus.sim.invariant import InvariantError
from isthmus.sim.mutants import hunt


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    schedules: int
    failed_seeds: tuple[int, ...]
    faults: int
    waits_struck: int
    """Kinds of wait at which a fault struck."""
    healed: int
    heal_s_p50: float
    """Virtual seconds from detection to training."""
    heal_s_p95: float
    generations: int
    lost_steps: int
    ended_by_policy: dict[str, int]
    mutants_caught: int
    mutants: int
    wall_s: float


def summarise(reports: list[Report], failed: list[int], caught: int, wall_s: float) -> Summary:
    heal_s = sorted(seconds for report in reports for seconds in report.heal_s)
    ends = Counter(report.reason.split(",")[0] for report in reports if report.outcome == "failed")
    struck = [fault for report in reports for fault in report.faults]
    return Summary(
        schedules=len(reports) + len(failed),
        failed_seeds=tuple(failed),
        faults=len(struck),
        waits_struck=len({fault.split(" at ")[1] for fault in struck}),
        healed=len(heal_s),
        heal_s_p50=round(statistics.median(heal_s), 3) if heal_s else 0.0,
        heal_s_p95=round(heal_s[int(0.95 * (len(heal_s) - 1))], 3) if heal_s else 0.0,
        generations=sum(report.generations for report in reports),
        lost_steps=sum(report.lost_steps for report in reports),
        ended_by_policy=dict(ends),
        mutants_caught=caught,
        mutants=len(MUTANTS),
        wall_s=round(time.monotonic() - wall_s, 1),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m isthmus.heal.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument(
        "--faults", default="", help="kinds to draw from, comma between them; all if not given"
    )
    parser.add_argument("--mutants", action="store_true", help="plant each bug and see that it is caught")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    began_s = time.monotonic()
    config = SimConfig(faults=tuple(kind for kind in given.faults.split(",") if kind))
    reports: list[Report] = []
    failed: list[int] = []
    for seed in range(given.first, given.first + given.seeds):
        try:
            reports.append(simulate(seed, config))
        except InvariantError as error:
            failed.append(seed)
            print(error, file=sys.stderr)
    caught = [found for mutant in MUTANTS if (found := hunt(mutant, simulate))] if given.mutants else []
    for found in caught:
        print(f"{found.mutant}: seed {found.seed}: {found.invariant}", file=sys.stderr)
    summary = summarise(reports, failed, len(caught), began_s)
    if given.json:
        print(msgspec.json.encode(summary).decode())
    else:
        for name in summary.__struct_fields__:
            print(f"{name:18} {getattr(summary, name)}")
    missed = given.mutants and len(caught) < len(MUTANTS)
    return 5 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
