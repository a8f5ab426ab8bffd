"""Runs of `isthmus probe` and `isthmus train` on this machine, as anybody would start them."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec

from isthmus.errors import IsthmusError
from isthmus.journal.events import StepDone
from isthmus.journal.reader import read
from isthmus.planner.probed.profile import Profile
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.load import to_yaml
from isthmus.spec.run import RunSpec
from isthmus_bench.planner.crowd import Crowd

COMMAND = [sys.executable, "-c", "import sys; from isthmus.ui.cli import main; sys.exit(main())"]
WARM_UP_STEPS = 5
TIMEOUT_S = 600.0
POLL_S = 0.1


@dataclass
class Trained:
    """What one run showed."""

    step_s: list[float]
    """Of each step after the warm-up, without waiting for the server."""
    foreign: float
    """Share of the machine that others used meanwhile."""
    peak_bytes: dict[int, int] = field(default_factory=dict)
    """By rank: the largest resident set of its process."""

    @property
    def median_s(self) -> float:
        return median(self.step_s)


def probe(run: RunSpec, folder: Path, ranks: int, prefix: Sequence[str] = ()) -> tuple[Profile, float]:
    """The profile, and the share of the machine that others used meanwhile."""
    with Crowd() as crowd:
        finish(start_probe(run, folder, ranks, prefix), folder / "probe.log")
    return read_profile(folder), crowd.share


def read_profile(folder: Path) -> Profile:
    return msgspec.json.decode((folder / "profile.json").read_bytes(), type=Profile)


def start_probe(
    run: RunSpec, folder: Path, ranks: int, prefix: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Writes `folder`/profile.json. Args: prefix: put before the command line."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(to_yaml(run))
    words = ["probe", "--run", str(folder / "run.yaml"), "--ranks", str(ranks)]
    words += ["--out", str(folder / "profile.json")]
    return _start([*prefix, *COMMAND, *words], folder / "probe.log")


def train(run: RunSpec, fleet: FleetSpec, folder: Path, prefix: Sequence[str] = ()) -> Trained:
    """`isthmus train` to the run's end. Raises IsthmusError with its last words if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(to_yaml(run))
    (folder / "fleet.yaml").write_text(to_yaml(fleet))
    place = folder / "run"
    words = ["train", str(folder / "run.yaml"), "--fleet", str(folder / "fleet.yaml")]
    with Crowd() as crowd:
        process = _start([*prefix, *COMMAND, *words, "--run-dir", str(place)], folder / "train.log")
        peaks = _watch(process, place, sum(site.num_ranks for site in fleet.sites.values()))
        finish(process, folder / "train.log")
    steps = [event.step_s - event.wait_s for event in read(place) if isinstance(event, StepDone)]
    return Trained(steps[WARM_UP_STEPS:], crowd.share, peaks)


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits for it. Raises IsthmusError with its last words if it fails or does not end."""
    try:
        code = process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if code:
        words = log.read_text(errors="replace")[-1000:]
        raise IsthmusError(f"a process of the benchmark ended with {code}\n{words}", where=str(log))


def _start(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with open(log, "ab") as output:
        return subprocess.Popen(list(words), stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _watch(process: subprocess.Popen[bytes], place: Path, num_ranks: int) -> dict[int, int]:
    """The highest resident set of each rank of the run in `place`, until the process has ended."""
    ranks: dict[int, Path] = {}
    peaks: dict[int, int] = {}
    deadline_s = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        if len(ranks) < num_ranks:
            ranks = _ranks_of(str(place))
        for rank, folder in ranks.items():
            peaks[rank] = max(peaks.get(rank, 0), _peak_bytes(folder))
        time.sleep(POLL_S)
    return peaks


def _ranks_of(place: str) -> dict[int, Path]:
    """Rank -> folder in /proc of the processes that are ranks of this run."""
    found: dict[int, Path] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            if "isthmus.train" in words and place in words:
                environment = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                rank = next((int(each[5:]) for each in environment if each.startswith("RANK=")), 0)
                found[rank] = folder
        except OSError:
            continue
    return found


def _peak_bytes(folder: Path) -> int:
    """0 where the process has ended."""
    try:
        status = (folder / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), 0)


def on_one_core() -> list[str]:
    """Put before a command line: it runs, with its children, on the first core that this process may use."""
    return ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
