"""A node, as a site's processes are made on it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isthmus.agent.brood import Birth
from isthmus.agent.launch import split_cpus
from isthmus.rundir import RunDir


@dataclass(frozen=True)
class Home:
    node: str
    live: Path
    """The agent's folder: its door, and the pages."""
    birth: Callable[[str], Birth]
    """How a process of this id is made."""
    log: Callable[[str, int | None], Path]
    """Of a process, by the place it holds."""
    cpus: Sequence[frozenset[int]]
    """Where the processes with a place run, one after the other."""


def make_home(
    run: RunDir, site: str, node: str, live: Path, cpus: Sequence[frozenset[int]], line: Callable[[], str]
) -> Home:
    """`line`: the socket of the site's client, if it has one."""
    threads = len(cpus[0]) if sum(map(len, cpus)) <= len(os.sched_getaffinity(0)) else 1

    def birth(process: str) -> Birth:
        place = ["--run-dir", str(run.path.absolute()), "--site", site]
        client = ["--line", line()] if line() else []
        return Birth(
            process=process,
            module="isthmus.train.__main__",
            arguments=[*place, *client, "--kept-by", str(live), "--process", process],
            log=str(standby_log(run, site, process)),
            threads=threads,
        )

    def logs(process: str, rank: int | None) -> Path:
        return standby_log(run, site, process) if rank is None else run.logs / f"rank-{site}-{rank}.log"

    return Home(node, live, birth, logs, cpus)


def standby_log(run: RunDir, site: str, process: str) -> Path:
    """Of a process without a place."""
    return run.logs / f"standby-{site}-{process.rpartition('/')[2]}.log"


def read_cpus(text: str, slots: int) -> list[frozenset[int]]:
    """'0,1;2,3' -> those of the first place and of the second; '': an even share of all."""
    if not text:
        return split_cpus(sorted(os.sched_getaffinity(0)), [slots])[0]
    return [frozenset(map(int, share.split(","))) for share in text.split(";") if share]
