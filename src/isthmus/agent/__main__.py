"""Keeps the ranks of one site alive: `python -m isthmus.agent --run-dir RUN --site NAME`.

Its exit code is 0 when the site has done its part, and that of the error otherwise. A signal asks the ranks
to save and leave, SIGQUIT ends them at once; killed, it leaves them training, and the next one takes them
over.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from isthmus.agent.brood import Birth, Brood
from isthmus.agent.diagnoser import Diagnoser
from isthmus.agent.drills import Drills
from isthmus.agent.keeper import Keeper, Site
from isthmus.agent.launch import split_cpus
from isthmus.agent.live import live_folder, remove
from isthmus.agent.stacks import Stacks
from isthmus.agent.watch import Watcher
from isthmus.errors import IsthmusError
from isthmus.heal.actions import End
from isthmus.heal.policy import Policy
from isthmus.journal.writer import Journal
from isthmus.planner.plan import Plan
from isthmus.rundir import RunDir

ADDRESS = "agent.json"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="isthmus.agent")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--site", required=True)
    parser.add_argument("--line", default="", help="socket of the site's client")
    parser.add_argument("--cpus", default="", help="CPUs of each rank: 0,1;2,3")
    options = parser.parse_args(argv)
    try:
        end = keep(RunDir.existing(options.run_dir), options.site, options.line, options.cpus)
    except IsthmusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if end.outcome == "failed":
        print(end.traceback.rstrip() or f"error: {end.reason}", file=sys.stderr)
    return end.exit_code


def keep(run: RunDir, name: str, line: str, cpus: str) -> End:
    """Until the site is done, or given up."""
    plan = msgspec.json.decode(run.plan.read_bytes(), type=Plan)
    folder, size = run.site(name), plan.site(name).num_ranks
    live = live_folder(folder / ADDRESS)
    shares = read_cpus(cpus) or split_cpus(sorted(os.sched_getaffinity(0)), [size])[0]
    threads = len(shares[0]) if size * len(shares[0]) <= len(os.sched_getaffinity(0)) else 1

    def birth(process: str) -> Birth:
        place = ["--run-dir", str(run.path.absolute()), "--site", name]
        kept = ["--kept-by", str(live), "--process", process]
        return Birth(
            process=process,
            module="isthmus.train.__main__",
            arguments=[*place, *(["--line", line] if line else []), *kept],
            log=str(standby_log(run, name, process)),
            threads=threads,
        )

    def logs(process: str, rank: int | None) -> Path:
        return standby_log(run, name, process) if rank is None else run.logs / f"rank-{name}-{rank}.log"

    site = Site(name, size, folder, live, birth, logs, shares, Policy())
    with Journal(run.path, f"agent/{name}") as journal:
        keeper = Keeper(
            site,
            journal,
            Brood(run.logs / f"nursery-{name}.log"),
            Watcher(live, folder),
            Stacks(run.logs, name),
            Drills.open(run, name, live, size),
            Diagnoser(),
        )

        def ask(number: int, frame: object) -> None:
            keeper.leave_asked = signal.Signals(number).name

        def quit_now(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, ask)
        signal.signal(signal.SIGQUIT, quit_now)
        keeper.open()
        try:
            while (end := keeper.turn()) is None:
                pass
        except KeyboardInterrupt:
            end = End("failed", "ended at once", 130)
        finally:
            keeper.close()
        site.record.unlink(missing_ok=True)
        remove(live, folder / ADDRESS)
        return end


def standby_log(run: RunDir, site: str, process: str) -> Path:
    """Of a process without a place."""
    return run.logs / f"standby-{site}-{process.rpartition('/')[2]}.log"


def read_cpus(text: str) -> list[frozenset[int]]:
    """'0,1;2,3' -> those of rank 0 and of rank 1."""
    return [frozenset(map(int, share.split(","))) for share in text.split(";") if share]


if __name__ == "__main__":
    sys.exit(main())
