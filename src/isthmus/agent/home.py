"""A node, as a site's processes are made on it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isthmus.agent.launch import split_cpus
from isthmus.rundir import RunDir
from isthmus.train.birth import Birth


@dataclass(frozen=True)
class Home:
    run: RunDir
    site: str
    node: str
    live: Path
    """The agent's folder: its door, and the pages."""
    birth: Callable[[str], Birth]
    """How a process of this id is made."""
    cpus: Sequence[frozenset[int]]
    """Where the processes with a place run, one after the other."""

    def log(self, process: str, rank: int | None) -> Path:
        """Of a process, by the place it holds."""
        named = self.run.standby_log(self.site, process)
        return named if rank is None else self.run.rank_log(self.site, rank)


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
            log=str(run.standby_log(site, process)),
            threads=threads,
        )

    return Home(run, site, node, live, birth, cpus)


def read_cpus(text: str, slots: int) -> list[frozenset[int]]:
    """'0,1;2,3' -> those of the first place and of the second; '': an even share of all."""
    if not text:
        return split_cpus(sorted(os.sched_getaffinity(0)), [slots])[0]
    return [frozenset(map(int, share.split(","))) for share in text.split(";") if share]
