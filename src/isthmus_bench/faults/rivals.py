"""Other people's ways to go on after a rank was killed, each raced on `rival_train.py` with four ranks.

torchrun comes with torch. The others are looked for in the virtual environment that ISTHMUS_RIVALS_VENV
names; what is not there is told as absent.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from isthmus.agent.children import Child
from isthmus.agent.launch import free_port
from isthmus.errors import IsthmusError
from isthmus_bench.document import package_version
from isthmus_bench.faults import rival_train

VENV = "ISTHMUS_RIVALS_VENV"
NUM_RANKS = 4
VICTIM = 1
KILL_STEP = 25
"""Checkpoints are of every tenth step."""
START_S = 120.0
LIMIT_S = 90.0
"""Until one counts as lost."""
POLL_S = 0.02
SCRIPT = str(Path(rival_train.__file__))
SOON = ("--timeout-s", "10")
"""For those whose survivors sit in gloo until its timeout."""


class Told(msgspec.Struct, frozen=True):
    """A line of `rival_train`'s."""

    at_s: float
    pid: int
    what: str
    rank: int
    step: int
    quorum: int = 0


class Recovery(msgspec.Struct, frozen=True):
    """After a kill. Seconds until the first new step, steps done twice."""

    seconds: float
    lost: int
    replaced_s: float | None = None
    """Until the first step of the process that took the dead one's place, where that comes later."""


def resumed(told: Sequence[Told], killed_s: float) -> Recovery | None:
    """Of a launcher that starts the loop again from its checkpoint; None: not yet."""
    begins = [event for event in told if event.what == "begin" and event.at_s > killed_s]
    done = max((e.step for e in told if e.what == "step" and e.at_s <= killed_s), default=0)
    firsts = [
        step.at_s
        for begin in begins
        for step in told
        if step.what == "step" and step.pid == begin.pid and step.at_s > begin.at_s
    ]
    return Recovery(min(firsts) - killed_s, done - begins[0].step) if firsts else None


def regrouped(told: Sequence[Told], killed_s: float) -> Recovery | None:
    """Of torchft: survivors go on in the next quorum, the one that is started again joins later."""
    steps = [event for event in told if event.what == "step"]
    before = [event for event in steps if event.at_s <= killed_s]
    old, pids = max(event.quorum for event in before), {event.pid for event in before}
    after = [event for event in steps if event.at_s > killed_s and event.quorum > old]
    survivors = [event.at_s for event in after if event.pid in pids]
    fresh = [event.at_s for event in after if event.pid not in pids]
    if not survivors or not fresh:
        return None
    return Recovery(min(survivors) - killed_s, 0, min(fresh) - killed_s)


class Rival(ABC):
    """A launcher with what it needs. `python`: '' where it is absent."""

    read = staticmethod(resumed)

    def __init__(self, name: str, python: str, limit_s: float = LIMIT_S):
        self.name, self.python, self.limit_s = name, python, limit_s

    @abstractmethod
    def children(self, folder: Path, script: list[str]) -> list[Child]:
        """What is to be started."""

    def race(self, step_s: float) -> Recovery | None:
        """Kill one rank of four. None: it did not train again within `limit_s`."""
        with tempfile.TemporaryDirectory(prefix="isthmus-rival-") as name:
            folder = Path(name)
            script = [SCRIPT, "--folder", name, "--steps", "1000000", "--step-s", str(step_s)]
            with running(folder, self.children(folder, script)) as children:
                pid = _wait_victim(folder, children)
                killed_s = time.time()
                os.kill(pid, signal.SIGKILL)
                while time.time() < killed_s + self.limit_s:
                    for child in children:
                        if not child.alive:
                            child.restart()
                    if found := self.read(read_told(folder), killed_s):
                        return found
                    time.sleep(POLL_S)
        return None


class Torchrun(Rival):
    """torchrun itself, and what takes its options."""

    def __init__(self, name: str, python: str, program: list[str], *, fresh_store: bool, limit_s: float):
        super().__init__(name, python, limit_s)
        self._program, self._fresh_store = program, fresh_store

    def children(self, folder: Path, script: list[str]) -> list[Child]:
        options = [
            "--nnodes", "1", "--nproc-per-node", str(NUM_RANKS), "--max-restarts", "2",
            "--monitor-interval", "0.1", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", f"127.0.0.1:{free_port()}",
        ]  # fmt: skip
        env = {**ONE_THREAD, **({"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if self._fresh_store else {})}
        return [Child("rival", [*self._program, *options, *script], folder / "log", env)]


class Inprocess(Rival):
    """Five processes, one of them in reserve."""

    def children(self, folder: Path, script: list[str]) -> list[Child]:
        ports = free_port(), free_port()
        argv = [self.python, *script, "--way", "inprocess", *SOON, "--store-port", str(ports[1])]
        return [
            Child(f"rival-{rank}", argv, folder / f"log-{rank}", {
                **ONE_THREAD, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(NUM_RANKS + 1),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[0]),
            })
            for rank in range(NUM_RANKS + 1)
        ]  # fmt: skip


class Torchft(Rival):
    """Four replica groups of one rank; one that ends is started again at once."""

    read = staticmethod(regrouped)

    def children(self, folder: Path, script: list[str]) -> list[Child]:
        port = free_port()
        lighthouse = [
            str(Path(self.python).parent / "torchft_lighthouse"), "--bind", f"127.0.0.1:{port}",
            "--min_replicas", str(NUM_RANKS - 1), "--join_timeout_ms", "10000",
            "--quorum_tick_ms", "100", "--heartbeat_timeout_ms", "1000",
        ]  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        argv = [self.python, *script, "--way", "torchft", *SOON, "--lighthouse", url]
        replicas = [
            Child(f"rival-{n}", [*argv, "--replica", str(n)], folder / f"log-{n}", ONE_THREAD, max_restarts=2)
            for n in range(NUM_RANKS)
        ]
        return [Child("lighthouse", lighthouse, folder / "lighthouse"), *replicas]


ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "GLOO_SOCKET_IFNAME": "lo"}


@contextmanager
def running(folder: Path, children: list[Child]) -> Iterator[list[Child]]:
    """Ends them with the block, and what they started."""
    try:
        for child in children:
            child.start()
        yield children
    finally:
        for child in children:
            child.kill()
        for pid in _of(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _of(folder: Path) -> list[int]:
    """All processes that were started with this folder among their arguments, whoever is their parent."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder).encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def read_told(folder: Path) -> list[Told]:
    """In order of time; a line that is being written is left for later."""
    found: list[Told] = []
    for path in folder.glob("told-*.jsonl"):
        text = path.read_text()
        found += [msgspec.json.decode(line, type=Told) for line in text[: text.rfind("\n") + 1].splitlines()]
    return sorted(found, key=lambda event: event.at_s)


def _wait_victim(folder: Path, children: Sequence[Child]) -> int:
    """Pid of the rank that is to be killed, once all have trained for a while."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        steps = [event for event in read_told(folder) if event.what == "step"]
        if steps and steps[-1].step >= KILL_STEP and len({event.rank for event in steps}) == NUM_RANKS:
            return next(event.pid for event in reversed(steps) if event.rank == VICTIM)
        time.sleep(POLL_S)
    words = "\n".join(child.last_words(4) for child in children)
    raise IsthmusError(f"{children[0].name} does not train\n{words}", where=str(folder))


def find(never_s: float) -> list[Rival]:
    """All of them, present or not.

    Args:
        never_s: how long to wait for the one that may never train again.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    torch, (python, versions) = package_version("torch"), _installed()
    nvrx, torchft = versions.get("nvidia-resiliency-ext", ""), versions.get("torchft", "")
    with_nvrx, with_torchft = python if nvrx else "", python if torchft else ""
    launcher = [str(Path(python).parent / "ft_launcher")]
    return [
        Torchrun(f"torchrun {torch} (store not shared)", sys.executable, torchrun, fresh_store=True,
                 limit_s=LIMIT_S),
        Torchrun(f"torchrun {torch} (waited {never_s:.0f} s)", sys.executable, torchrun,
                 fresh_store=False, limit_s=never_s),
        Torchrun(f"nvidia-resiliency-ext {nvrx} ft_launcher (store not shared)", with_nvrx, launcher,
                 fresh_store=True, limit_s=LIMIT_S),
        Inprocess(f"nvidia-resiliency-ext {nvrx} inprocess (one in reserve, gloo timeout 10 s)", with_nvrx),
        Torchft(f"torchft {torchft} (gloo timeout 10 s, heartbeat timeout 1 s)", with_torchft),
    ]  # fmt: skip


_VERSIONS = """
import json
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in ("torch", "nvidia-resiliency-ext", "torchft"):
    try: found[name] = version(name)
    except PackageNotFoundError: pass
print(json.dumps(found))
"""


def _installed() -> tuple[str, dict[str, str]]:
    """(interpreter, versions) of the rivals' environment; ('', {}) where none is named."""
    venv = os.environ.get(VENV, "")
    python = str(Path(venv) / "bin" / "python")
    if not venv or not Path(python).exists():
        return "", {}
    told = subprocess.run([python, "-c", _VERSIONS], capture_output=True, timeout=60, check=True)
    return python, json.loads(told.stdout)
