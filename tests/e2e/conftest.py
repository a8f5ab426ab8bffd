"""Whole runs with real processes: a tiny model, a small text, everything started as a user starts it."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from isthmus.errors import IsthmusError
from isthmus.journal.reader import Reader

ISTHMUS = str(Path(sys.executable).with_name("isthmus"))
PATIENCE_S = 100.0
MODEL = {
    "preset": "tiny", "num_layers": 1, "hidden_size": 32, "vocab_size": 300, "ffn_size": 32, "head_dim": 16,
    "num_heads": 2, "num_kv_heads": 1,
}  # fmt: skip
SEQ_LEN = 32


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """A folder with texts of made-up words; the prepared data is cached in it."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(200)]
    for number in range(50):
        (folder / f"{number}.txt").write_text(" ".join(rng.choices(words, k=600)))
    return folder


def processes(words: str) -> dict[int, str]:
    """Living processes whose command line holds `words`: pid -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if words in line and state != "Z":
                found[int(entry.name)] = line
    return found


def write_new(path: Path, text: str) -> None:
    """Leaves a file that holds this already alone: a process may be reading it."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


class Train:
    """One run folder, and the processes that work in it."""

    def __init__(self, folder: Path, text: Path):
        self.folder, self.path = folder, folder / "run"
        self.temporary = Path(tempfile.mkdtemp(prefix="e2e-"))
        self.started: list[subprocess.Popen] = []
        self._reader: Reader | None = None
        self._events: list = []
        self.run = {
            "name": "e2e",
            "model": MODEL,
            "data": {
                "sources": str(text / "*.txt"),
                "seq_len": SEQ_LEN,
                "held_out": 0.1,
                "cache": str(text / "cache"),
            },
            "train": {
                "tokens": 40_960,
                "batch_size": 8,
                "lr": 3e-3,
                "precision": "fp32",
                "eval_sequences": 8,
            },
            "outer": {"inner_steps": 5, "outage_reserve": "2 s"},
        }
        self.fleet: dict = {"sites": {"a": {}, "b": {}}}

    # ---- starting

    def isthmus(self, *arguments: object, **more) -> subprocess.Popen:
        return self.command(ISTHMUS, *arguments, **more)

    def command(self, *argv: object, **more) -> subprocess.Popen:
        for name, spec in (("run.yaml", self.run), ("fleet.yaml", self.fleet)):
            write_new(self.folder / name, yaml.safe_dump(spec))
        out = open(self.folder / f"out-{len(self.started)}", "w+b")  # noqa: SIM115
        env = {**os.environ, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1", **more.pop("env", {})}
        process = subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=self.folder,
            start_new_session=True,
            **more,
        )
        process.out = out
        self.started.append(process)
        return process

    def train(self, *arguments: object, **more) -> subprocess.Popen:
        specs = [self.folder / "run.yaml", "--fleet", self.folder / "fleet.yaml"]
        return self.isthmus("train", *specs, "--run-dir", self.path, *arguments, **more)

    # ---- watching

    def events(self, *names: str) -> list:
        """The journal so far, in time order; only the events of these names where some are given."""
        with contextlib.suppress(IsthmusError):
            self._reader = self._reader or Reader(self.path)
            self._events += self._reader.poll()
        events = sorted(self._events, key=lambda event: event.wall_s)
        return [event for event in events if not names or type(event).__name__ in names]

    def wait(self, there, what: str = "", alone: bool = False):
        """What `there()` returns, once that is true. Unless `alone`, something that was started must live."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := there()):
            alive = alone or any(process.poll() is None for process in self.started) or there()
            if not alive or time.monotonic() > deadline:
                pytest.fail(f"never: {what}\n{self.words()}")
            time.sleep(0.02)
        return found

    def wait_for(self, name: str, count: int = 1, **fields) -> list:
        """That many events of this name with these fields."""

        def there():
            events = [e for e in self.events(name) if all(getattr(e, k) == v for k, v in fields.items())]
            return events if len(events) >= count else []

        return self.wait(there, f"{count} {name} {fields}")

    def end(self, process: subprocess.Popen, code: int | None = 0) -> str:
        """Waits for its end; returns what it printed."""
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running\n{self.words()}")
        output = self.output(process)
        assert code is None or process.returncode == code, f"exit code {process.returncode}\n{self.words()}"
        return output

    def output(self, process: subprocess.Popen) -> str:
        process.out.seek(0)
        return process.out.read().decode(errors="replace")

    def words(self) -> str:
        """All that was said, for a failing test."""
        told = [f"--- {process.args}\n{self.output(process)[-1500:]}" for process in self.started]
        for log in sorted((self.path / "logs").glob("*.log")):
            told.append(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}")
        told += [str(event)[:200] for event in self.events()[-15:] if type(event).__name__ != "StepDone"]
        return "\n".join(told)

    # ---- breaking

    def pids(self, module: str, *words: str) -> list[int]:
        """Of this run's processes of a module, such as isthmus.outer.client, with these words."""
        wanted = (f"{module} ", *words)
        return [
            pid
            for pid, line in processes(str(self.path)).items()
            if all(word in f"{line} " for word in wanted)
        ]

    def kill(self, module: str, *words: str) -> None:
        pids = self.wait(lambda: self.pids(module, *words), f"a process of {module}")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # ---- judging

    @property
    def num_samples(self) -> int:
        per_step = self.run["train"]["batch_size"]
        return self.run["train"]["tokens"] // SEQ_LEN // per_step * per_step

    def merged(self) -> list[int]:
        return sorted(n for e in self.events("RangeMerged") for n in range(e.start, e.end))

    def check_whole(self, temporary: bool = True) -> None:
        """The budget was trained, every sample in exactly one merge; nothing is left behind."""
        merged = self.merged()
        assert len(merged) == len(set(merged)), "a sample was merged twice"
        assert merged == list(range(self.num_samples)), "a sample was not merged"
        assert [e.reason for e in self.events("RunFinished")][-1:] == ["budget"]
        assert sum(e.reason == "budget" for e in self.events("RunFinished")) == 1
        assert (self.path / "final" / "model.safetensors").exists()
        self.check_tidy(temporary)

    def check_tidy(self, temporary: bool = True) -> None:
        """No process and (where its launcher was not killed) no temporary folder outlives the run."""
        self.wait(lambda: not processes(str(self.path)), "an end of all processes", alone=True)
        assert not temporary or not list(self.temporary.glob("isthmus-*"))

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.out.close()
        for pid in processes(str(self.folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.temporary)


@pytest.fixture
def run(tmp_path: Path, text: Path):
    started = Train(tmp_path, text)
    yield started
    started.close()


@pytest.fixture
def long(run: Train) -> Train:
    """A run of some seconds of training, so that a site that is slow to start has its part in it."""
    run.run["train"] |= {"tokens": 102_400}
    return run
