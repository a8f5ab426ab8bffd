"""Keeps a training script of the user's alive on this node: `isthmus run -- python train.py`.

A script that torchrun can start needs no change: its ranks are started together, and together again when
one dies. One that calls `isthmus.live.join` goes on with the ranks that are left, and a warm one.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from isthmus import __version__
from isthmus.agent.brood import Brood
from isthmus.agent.checks import Checker
from isthmus.agent.diagnoser import Diagnoser
from isthmus.agent.drills import Drills
from isthmus.agent.hands import Hands
from isthmus.agent.home import Home
from isthmus.agent.keeper import NODE, Keeper, Site
from isthmus.agent.live import live_folder, remove, sole
from isthmus.agent.pace import Pace
from isthmus.agent.stacks import Stacks
from isthmus.agent.tee import Tee
from isthmus.agent.turning import Ask, live_through
from isthmus.agent.watch import Watcher
from isthmus.errors import InputError
from isthmus.heal.actions import End
from isthmus.heal.policy import Policy
from isthmus.journal import events
from isthmus.journal.writer import Journal
from isthmus.rundir import RunDir
from isthmus.train.birth import Birth

SITE = "here"
_ADDRESS = "agent.json"
_MODULE = "isthmus.live.script"
_FLAG = "-m"
POLICY = Policy(
    form_timeout_s=600.0,  # from a place to the first step, or to `live.join`: what the script does before
    generations=10,
    barren=3,
)


@dataclass(frozen=True)
class Script:
    """What to run, and how."""

    words: list[str]
    """`train.py ARGS` or `-m module ARGS`."""
    num_ranks: int
    run_dir: Path
    standbys: int = 1
    tee: tuple[int, ...] = (0,)
    """Ranks whose output goes to the terminal."""
    patient: bool = False
    """A long time without a step is no hang."""


def read_command(words: Sequence[str]) -> list[str]:
    """`python -u train.py ARGS` -> `train.py ARGS`. Raises InputError where it is not for Python."""
    rest = list(words)
    if rest and Path(rest[0]).name.startswith("python"):
        rest = rest[1:]
        while rest and rest[0] in ("-u", "-B"):
            rest = rest[1:]
    if not rest or (rest[0] == _FLAG and len(rest) < 2):
        raise InputError(
            "there is no script to run", hint="for example `isthmus run --nproc 2 -- python train.py`"
        )
    if rest[0] == _FLAG:
        return rest
    if not Path(rest[0]).is_file():
        raise InputError(f"there is no file '{rest[0]}'", hint="name a Python script, or -m and a module")
    return rest


class Spoken(Journal):
    """A journal whose faults and repairs are told at the terminal too."""

    crashed: str = ""
    """The rank whose program failed last."""

    def emit(self, event: events.AnyEvent) -> None:
        super().emit(event)
        if isinstance(event, events.Fault) and event.kind == "crash":
            self.crashed = event.subject
        if text := spoken(event):
            print(f"isthmus: {text}", file=sys.stderr, flush=True)


def spoken(event: events.AnyEvent) -> str:
    """What a person at the terminal wants to know of it, if anything."""
    match event:
        case events.Fault():
            return f"{_short(event.subject)}: {event.kind}: {event.detail}"
        case events.Healed():
            who = ", ".join(map(_short, event.subjects)) or "the group"
            after_s = event.resumed_s - event.began_s
            lost = f", {event.lost_steps} steps done again" if event.lost_steps else ""
            return f"{who}: trains again from step {event.step} after {after_s:.2f} s{lost}"
        case events.Note(level="warning"):
            return event.text
    return ""


def _short(subject: str) -> str:
    return subject.replace(f"rank-{SITE}-", "rank ").replace(f"site {SITE}", "all ranks")


def keep_script(script: Script) -> End:
    """Until the script has ended on all ranks, or is given up. Raises StorageError where another agent keeps
    the run of this folder.
    """
    run = RunDir(script.run_dir)
    with sole(run.site(SITE)):
        return _keep(script, run, run.site(SITE))


def _keep(script: Script, run: RunDir, folder: Path) -> End:
    live = live_folder(folder / _ADDRESS)
    policy = replace(POLICY, standbys=script.standbys)
    cpus = [frozenset[int]()] * script.num_ranks  # each where it likes
    home = Home(run, SITE, NODE, live, _births(script, run, live), cpus)
    site = Site(SITE, script.num_ranks, folder, script.num_ranks, policy)
    with Spoken(run.path, f"agent/{SITE}") as journal:
        journal.emit(_started(script, run))
        brood = Brood(run.logs / f"nursery-{SITE}.log", imports=(_MODULE,))
        watcher, stacks = Watcher(live, folder), Stacks(run.logs, SITE)
        keeper = Keeper(
            site,
            journal,
            Hands(home, brood),
            watcher,
            stacks,
            Drills.open(run, SITE, live, script.num_ranks),
            Diagnoser(),
            Checker("cpu", 1, folder, folder / f"figures-{NODE}.json"),
        )
        pace, tee = Pace(live, SITE, journal), Tee({rank: run.rank_log(SITE, rank) for rank in script.tee})
        asked = Ask(keeper, at_terminal=True)
        end = live_through(asked, [pace.look, tee.look])
        pace.close()
        tee.look()
        journal.emit(events.RunFinished(reason=_reason(end, asked), tokens=0))
        _tell(script, end, journal.crashed)
    site.record.unlink(missing_ok=True)
    remove(live, folder / _ADDRESS)
    return _interrupted(end, asked)


def _births(script: Script, run: RunDir, live: Path) -> Callable[[str], Birth]:
    places = ["--live", str(live), "--run-dir", str(run.path.absolute()), "--site", SITE]
    patient = ["--patient"] if script.patient else []
    threads = os.environ.get("OMP_NUM_THREADS", "1")

    def birth(process: str) -> Birth:
        return Birth(
            process=process,
            module=_MODULE,
            arguments=[*places, "--process", process, *patient, "--", *script.words],
            log=str(run.standby_log(SITE, process)),
            env={"OMP_NUM_THREADS": threads},
            threads=int(threads) if threads.isdecimal() else 1,
        )

    return birth


def _started(script: Script, run: RunDir) -> events.RunStarted:
    return events.RunStarted(
        name=run.path.name, sites=[SITE], num_params=0, token_budget=0, code_version=__version__
    )


def _tell(script: Script, end: End, crashed: str) -> None:
    """Why it failed; the traceback where the terminal has not shown it already."""
    if end.outcome != "failed":
        return
    if end.traceback and crashed not in [f"rank-{SITE}-{rank}" for rank in script.tee]:
        print(end.traceback.rstrip(), file=sys.stderr)
    print(f"isthmus: {end.reason}\nisthmus: logs are in {script.run_dir / 'logs'}", file=sys.stderr)


def _reason(end: End, asked: Ask) -> str:
    if end.outcome == "failed":
        return f"failed: {end.reason.splitlines()[-1]}"
    return "stopped" if asked.heard else "done"


def _interrupted(end: End, asked: Ask) -> End:
    """What was asked for by a signal is no success of the script."""
    if end.outcome == "done" and asked.heard:
        return End("done", end.reason, 130)
    return end


def default_run_dir() -> Path:
    return Path("runs") / time.strftime("run-%Y%m%d-%H%M%S")
