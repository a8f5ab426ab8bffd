"""Sites of several nodes on this machine: an agent for each, with a folder and processes of its own."""

import contextlib
import datetime
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from isthmus.agent.prepare import write_run
from isthmus.data.dataset import prepare
from isthmus.errors import IsthmusError
from isthmus.journal import events
from isthmus.journal.reader import read
from isthmus.planner.make import make_plan
from isthmus.rundir import RunDir
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import DataSpec, RunSpec, SourceSpec, TrainSpec
from isthmus.units import Count, Seconds
from isthmus.wire import certs

SITE = "here"
SEQ_LEN = 32
PATIENCE_S = 60.0
MODEL = ModelSpec(
    vocab_size=320, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, ffn_size=48,
    max_seq_len=64,
)  # fmt: skip


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    words = ["river", "carries", "ships", "from", "sea", "to", "narrow", "land", "joins", "two", "shores"]
    draws = random.Random(1)
    folder = tmp_path_factory.mktemp("text")
    lines = [msgspec.json.encode({"text": " ".join(draws.choices(words, k=60))}) for _ in range(200)]
    (folder / "text.jsonl").write_bytes(b"\n".join(lines))
    data = DataSpec(
        sources=[SourceSpec(path=str(folder / "text.jsonl"))],
        seq_len=SEQ_LEN,
        held_out=0.1,
        cache=str(folder / "cache"),
    )
    prepare(data, MODEL.vocab_size)
    return RunSpec(
        model=MODEL,
        data=data,
        train=TrainSpec(
            tokens=Count(100_000 * 8 * SEQ_LEN),  # none of the tests gets there
            batch_size=8,
            micro_batch_size=2,
            lr=5e-3,
            precision="fp32",
            eval_every=Seconds(0),
            eval_sequences=6,
            checkpoint_every=Seconds(0),
        ),
    )


class Cluster:
    """One site's nodes. The first one's agent is the keeper."""

    def __init__(self, folder: Path, spec: RunSpec, num_nodes: int = 2):
        self.folder, self.spec = folder, spec
        self.port = lasting_port()
        self.fleet = FleetSpec(sites={SITE: SiteSpec(nodes=[NodeSpec(count=num_nodes)])})
        self.certs = folder / "certs"
        certs.init(self.certs, [SITE], ["127.0.0.1"], datetime.datetime.now(datetime.UTC))
        self.temporary = Path(tempfile.mkdtemp(prefix="nodes-"))
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.policy: dict[str, float] = {}
        self.host = "127.0.0.1"
        self.prefixes: dict[str, Sequence[str]] = {}
        """Put before a node's command line."""

    def run_dir(self, node: str) -> RunDir:
        return RunDir(self.folder / node)

    def start(self, node: str, *more: str) -> subprocess.Popen[bytes]:
        """The keeper where `node` is 'local'."""
        run = self.run_dir(node)
        if not run.plan.exists():
            write_run(run, self.spec, self.fleet, make_plan(self.fleet, self.spec), hosts=None)
        where = f"{self.host}:{self.port}"
        words = ["--listen", where] if node == "local" else ["--join", where, "--node", node]
        words += ["--certs", str(self.certs), "--slots", "1", "--policy", json.dumps(self.policy), *more]
        argv = [sys.executable, "-m", "isthmus.agent", "--run-dir", str(run.path), "--site", SITE, *words]
        environment = {**os.environ, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        with open(self.folder / f"{node}.log", "ab") as log:
            self.agents[node] = subprocess.Popen(
                [*self.prefixes.get(node, ()), *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        return self.agents[node]

    # ---- watching

    def told(self, kind: type | None = None) -> list:
        """Of all nodes' journals, in time order."""
        found = []
        for run in self.folder.glob("*/journal"):
            with contextlib.suppress(IsthmusError):
                found += read(run.parent)
        found.sort(key=lambda event: event.wall_s)
        return [event for event in found if kind is None or isinstance(event, kind)]

    def steps(self) -> int:
        return max((event.step for event in self.told(events.StepDone)), default=0)

    def losses(self) -> dict[int, float]:
        return {event.step: event.loss for event in self.told(events.StepDone)}

    def notes(self) -> str:
        return "\n".join(event.text for event in self.told(events.Note))

    def processes(self, node: str, *words: str) -> list[int]:
        """Of a node, but its agent: those whose command line has these words."""
        wanted = (f"--run-dir {self.run_dir(node).path} ", "isthmus.train", *words)
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if not entry.name.isdecimal():
                    continue
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") + " "
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
                if state != "Z" and all(word in line for word in wanted):
                    found.append(int(entry.name))
        return found

    def wait(self, there: Callable[[], object], what: str, patience_s: float = PATIENCE_S):
        deadline = time.monotonic() + patience_s
        while not (found := there()):
            if time.monotonic() > deadline:
                pytest.fail(f"never: {what}\n{self.words()}")
            time.sleep(0.05)
        return found

    def wait_for_step(self, step: int) -> None:
        self.wait(lambda: self.steps() >= step, f"step {step}")

    def wait_for_standby(self, node: str) -> None:
        """A process of that node is warm and waits for a place."""

        def warm() -> bool:
            there = self.processes(node)
            return any("--rank" not in _line(pid) and _cpu_idle(pid) for pid in there)

        self.wait(warm, f"a standby of {node}")

    def end(self, node: str, code: int | None = 0) -> None:
        try:
            self.agents[node].wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{node} is still running\n{self.words()}")
        found = self.agents[node].returncode
        assert code is None or found == code, f"{node}: exit code {found}\n{self.words()}"

    def leave(self, *others: str) -> None:
        """The site ends in order, and with it these nodes' agents."""
        self.agents["local"].send_signal(signal.SIGTERM)
        for node in ("local", *others):
            self.end(node)

    def healed(self) -> list[events.Healed]:
        return self.told(events.Healed)

    def check_losses(self, undisturbed: dict[int, float], beyond: int) -> None:
        """Every step was done once, also some after `beyond`, with the loss it always has."""
        steps = [event.step for event in self.told(events.StepDone)]
        assert steps == list(range(1, len(steps) + 1)), "a step was lost, or done twice"
        common = [step for step in steps if step in undisturbed]
        assert common[-1] > beyond, f"nothing to compare with after step {beyond}"
        losses = self.losses()
        assert [losses[step] for step in common] == [undisturbed[step] for step in common]

    def words(self) -> str:
        told = []
        for log in [*self.folder.glob("*.log"), *self.folder.glob("*/logs/*.log")]:
            told.append(f"--- {log.relative_to(self.folder)}\n{log.read_text(errors='replace')[-1500:]}")
        told += [str(event)[:300] for event in self.told() if not isinstance(event, events.StepDone)]
        return "\n".join([*told, f"at step {self.steps()}"])

    # ---- breaking

    def kill_node(self, node: str) -> None:
        """All of its processes, at once."""
        for pid in [self.agents[node].pid, *self.processes(node)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.agents[node].wait()

    def close(self) -> None:
        for node, agent in self.agents.items():
            if agent.poll() is None:
                agent.kill()
            agent.wait()
            for pid in self.processes(node):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for live in Path("/dev/shm").glob("isthmus-*"):
            if live.is_dir() and self._is_of(live):
                shutil.rmtree(live, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _is_of(self, live: Path) -> bool:
        return any(str(live) in path.read_text() for path in self.folder.glob("*/sites/*/agent*.json"))


def lasting_port() -> int:
    """Nobody has it, and the system gives it to nobody: a keeper that is restarted takes it again."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return "--rank"


def _cpu_idle(pid: int) -> bool:
    """It has used no CPU for a moment."""
    with contextlib.suppress(OSError):
        path = Path(f"/proc/{pid}/stat")
        before = path.read_text().split()[13:15]
        time.sleep(0.3)
        return before == path.read_text().split()[13:15]
    return False


@pytest.fixture(scope="session")
def undisturbed(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Loss of each step where nothing happens, both ranks on one node."""
    cluster = Cluster(tmp_path_factory.mktemp("undisturbed"), spec)
    try:
        cluster.start("local", "--slots", "2")
        cluster.wait_for_step(150)
        time.sleep(8.0)  # so that it is further than others come until something happens to them
        cluster.leave()
        return cluster.losses()
    finally:
        cluster.close()


@pytest.fixture
def cluster(spec: RunSpec, tmp_path: Path):
    made = Cluster(tmp_path, spec)
    yield made
    made.close()
