"""`isthmus probe`: ranks of this machine that measure it, placed and threaded as `Launch` places a run's."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from isthmus import leash
from isthmus.agent.children import Child
from isthmus.agent.launch import split_cpus, start_ranks
from isthmus.errors import InputError, IsthmusError
from isthmus.planner.make import settle
from isthmus.planner.probed.profile import Profile
from isthmus.spec.load import to_yaml
from isthmus.spec.run import RunSpec

TIMEOUT_S = 1800.0
POLL_S = 0.1
Told = Callable[[float, str], None]


@dataclass(frozen=True)
class Wanted:
    """What is measured."""

    chip: str = "cpu"
    """As the fleet calls it."""
    ranks: int = 1
    """That run at once, on this machine."""
    run: RunSpec | None = None
    """Whose model's blocks are timed; None: no blocks."""
    quick: bool = False
    random_rows: bool = False
    """Rows of random tokens, one document each, in place of the run's data."""


def run_probe(wanted: Wanted, told: Told) -> Profile:
    """Tells of (part done, what is being measured). Raises IsthmusError with the last words of a rank that
    failed, with its exit code.
    """
    if wanted.ranks < 1:
        raise InputError(f"{wanted.ranks} ranks measure nothing", where="--ranks", hint="ask for 1 or more")
    with tempfile.TemporaryDirectory(prefix="isthmus-probe-") as name:
        folder = Path(name)
        if wanted.run:
            (folder / "run.yaml").write_text(to_yaml(settle(wanted.run)))
        ranks = _ranks(wanted, folder)
        try:
            start_ranks(ranks)
            _wait(ranks, told)
        finally:
            for rank in ranks:
                rank.kill()
        return msgspec.json.decode((folder / "profile.json").read_bytes(), type=Profile)


def _ranks(wanted: Wanted, folder: Path) -> list[Child]:
    usable = sorted(os.sched_getaffinity(0))
    (cpus,) = split_cpus(usable, [wanted.ranks])
    threads = len(cpus[0]) if wanted.ranks <= len(usable) else 1
    arguments = ["--folder", str(folder), "--chip", wanted.chip]
    arguments += ["--quick"] * wanted.quick + ["--random-rows"] * wanted.random_rows
    return [
        Child(
            name=f"probe-{index}",
            argv=leash.command("isthmus.train.probe", arguments),
            log=folder / f"{index}.log",
            env={"OMP_NUM_THREADS": str(threads)},
            affinity=own,
        )
        for index, own in enumerate(cpus)
    ]


def _wait(ranks: list[Child], told: Told) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while any(rank.alive for rank in ranks):
        for rank in ranks:
            if rank.exit_code not in (None, 0):
                raise _failed(rank)
        if time.monotonic() > deadline_s:
            raise IsthmusError(f"the probe did not end in {TIMEOUT_S:g} s\n{ranks[0].last_words()}")
        word, _, rest = ranks[0].last_words(1).partition(" ")
        part, _, what = rest.partition(" ")
        if word == "probe" and what:
            told(float(part), what)
        time.sleep(POLL_S)
    for rank in ranks:
        if rank.exit_code:
            raise _failed(rank)


def _failed(rank: Child) -> IsthmusError:
    words = [line for line in rank.last_words().splitlines() if not line.startswith("probe ")]
    error = IsthmusError("a rank of the probe failed\n" + "\n".join(words), where=rank.name)
    error.exit_code = rank.exit_code if rank.exit_code and rank.exit_code > 0 else error.exit_code
    return error
