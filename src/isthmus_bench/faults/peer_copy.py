"""Rows faults.peer_copy.*: what copies of the state in memory cost a step, and what other ways to keep it do.

All arms train the same model in one process and take turns of a few steps, in an order drawn anew for each
round, so that the machine's drift falls on all alike; a figure is the median over the rounds of an arm's time
over that of the arm without copies in the same round. An arm that keeps the state in every tenth step does so
in the first step of its turn; what that costs, with all that still runs beside the steps after it, is
divided by ten steps.
"""

import contextlib
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import async_save

from isthmus.comm.collective import SoloCollective
from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import TrainSpec
from isthmus.train.batches import Rows
from isthmus.train.learner import Learner
from isthmus.train.memory import keep_freed_memory
from isthmus.train.peer_copy import MEMORY, PeerCopy, flat, layout_of
from isthmus_bench.document import Result, package_version

MODEL = ModelSpec(
    vocab_size=8192, hidden_size=512, num_layers=8, num_heads=8, num_kv_heads=4, head_dim=64, ffn_size=1408,
    max_seq_len=512,
)  # fmt: skip
SMALL = ModelSpec(
    vocab_size=4096, hidden_size=192, num_layers=4, num_heads=6, num_kv_heads=3, head_dim=32, ffn_size=512,
    max_seq_len=512,
)  # fmt: skip
"""As many tokens in a step as the other: the share of a copy does not depend on the model's size."""
SEQ_LEN = 512
TURN = 3
"""Steps of an arm in a round: async writers have finished by then."""
SEED = 11


@dataclass(frozen=True)
class Size:
    model: ModelSpec
    sequences: int
    """In a step."""
    rounds: int


FULL, QUICK = Size(MODEL, 3, 8), Size(SMALL, 3, 2)


@dataclass(frozen=True)
class Arm:
    """A way to keep the state."""

    keep: Callable[[int], None]
    """Called before a step, with its number."""
    every: int
    finish: Callable[[], None] = lambda: None
    """What still runs is waited for, after a turn and not counted."""


@dataclass
class Times:
    wall_s: list[float]
    cpu_s: list[float]


def run(quick: bool) -> list[Result]:
    """Rows `faults.peer_copy.1` and `.10`; about ten minutes, one in quick mode."""
    size = QUICK if quick else FULL
    keep_freed_memory()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the other core is left to those that write in the background
    try:
        with ExitStack() as stack:
            learner, rows = build(size)
            arms = make_arms(learner, stack)
            times = take_turns(learner, rows, arms, size.rounds)
            return results(learner, times, arms, _speeds(learner, stack))
    finally:
        torch.set_num_threads(num_threads)


def build(size: Size) -> tuple[Learner, Rows]:
    model = Transformer(size.model, torch.float32)
    init_weights(model, SEED)
    learner = Learner(model, TrainSpec(), SoloCollective(), micro_batch=1)
    draws = np.random.default_rng(SEED)
    shape = (size.sequences, SEQ_LEN + 1)
    tokens = draws.integers(0, size.model.vocab_size, shape, dtype=np.int32)
    return learner, (tokens, np.zeros(shape, np.int32))


def make_arms(learner: Learner, stack: ExitStack) -> dict[str, Arm]:
    """Each with files of its own."""
    memory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)))
    disk = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp"))))
    stack.enter_context(_group(memory))
    copy = _copy(learner, memory, stack)
    beside = _Beside(learner, _copy(learner, memory / "beside", stack))

    def ours(step: int) -> None:
        copy.save(step, b"", _state(learner))

    def to(path: Path) -> Callable[[int], None]:
        return lambda step: torch.save(learner.tensors(), path)

    dcp_arm = _AsyncSave(learner, memory / "dcp")
    return {
        "none": Arm(lambda step: None, 1),
        "ours.1": Arm(ours, 1),
        "ours.10": Arm(ours, 10),
        "beside.1": Arm(beside.save, 1, beside.wait),
        "torch.save memory": Arm(to(memory / "state.pt"), 10),
        "torch.save disk": Arm(to(disk / "state.pt"), 10),
        "dcp.1": Arm(dcp_arm.save, 1, dcp_arm.wait),
        "dcp.10": Arm(dcp_arm.save, 10, dcp_arm.wait),
    }


def _state(learner: Learner) -> dict[str, np.ndarray]:
    return flat(learner.parameters(), learner.moments())


def _copy(learner: Learner, folder: Path, stack: ExitStack) -> PeerCopy:
    folder.mkdir(exist_ok=True)
    copy = PeerCopy(folder, b"bench", layout_of(_state(learner)))
    copy.open()
    stack.callback(copy.remove)
    return copy


class _Beside:
    """The same copy in a thread, beside forward and backward: the optimizer waits for it."""

    def __init__(self, learner: Learner, copy: PeerCopy):
        self._learner, self._copy = learner, copy
        self._thread: threading.Thread | None = None
        step: Any = learner.optimizer.step

        def wait_and_step(lr: float) -> None:
            self.wait()
            step(lr)

        learner.optimizer.step = wait_and_step

    def save(self, step: int) -> None:
        arguments = (step, b"", _state(self._learner))
        self._thread = threading.Thread(target=self._copy.save, args=arguments)
        self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


class _AsyncSave:
    """torch.distributed.checkpoint.async_save; a save waits for the one before."""

    def __init__(self, learner: Learner, folder: Path):
        self._learner, self._folder = learner, folder
        self._pending: Any = None

    def save(self, step: int) -> None:
        self.wait()
        writer = FileSystemWriter(self._folder, overwrite=True)
        self._pending = async_save(self._learner.tensors(), storage_writer=writer)

    def wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None


@contextlib.contextmanager
def _group(folder: Path) -> Iterator[None]:
    """async_save asks for one that has a CPU backend."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def take_turns(learner: Learner, rows: Rows, arms: dict[str, Arm], rounds: int) -> dict[str, Times]:
    """Arm -> times of its turns. A first turn of each, which makes files and buffers, is not counted."""
    times = {name: Times([], []) for name in arms}
    draws, names, step = random.Random(SEED), list(arms), 0
    for turn in range(-1, rounds):
        draws.shuffle(names)
        for name in names:
            arm, start_s, start_cpu_s = arms[name], time.perf_counter(), time.process_time()
            for index in range(TURN):
                step += 1
                if index == 0 or arm.every == 1:
                    arm.keep(step)
                learner.step(rows, 1e-4)
            wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
            arm.finish()
            if turn >= 0:
                times[name].wall_s.append(wall_s)
                times[name].cpu_s.append(cpu_s)
    return times


def share(mine: list[float], none: list[float], every: int) -> float:
    """Of a step's time, that keeping the state so often costs."""
    extra = median(there / without - 1 for there, without in zip(mine, none, strict=True))
    return extra if every == 1 else extra * TURN / every


def _speeds(learner: Learner, stack: ExitStack) -> tuple[float, float]:
    """(our copy with its checksum, plain memcpy), bytes/s: the best of several."""
    copy = _copy(learner, Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))), stack)
    state = _state(learner)
    source = np.ones(copy.body_bytes, np.uint8)
    target = np.ones_like(source)
    steps = iter(range(8))
    ours_s = min(_timed(lambda: copy.save(next(steps), b"", state)) for _ in range(8))
    memcpy_s = min(_timed(lambda: np.copyto(target, source)) for _ in range(8))
    return copy.body_bytes / ours_s, copy.body_bytes / memcpy_s


def _timed(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def results(
    learner: Learner, times: dict[str, Times], arms: dict[str, Arm], speeds: tuple[float, float]
) -> list[Result]:
    def of(name: str, every: int) -> float:
        return share(times[name].wall_s, times["none"].wall_s, every)

    torch_version = package_version("torch")
    num_bytes = sum(array.nbytes for array in _state(learner).values())
    step_s = median(times["none"].wall_s) / TURN
    about = (
        f"{num_bytes / 1e6:.0f} MB of state, a step takes {step_s:.2f} s on one core; copy and checksum "
        f"{speeds[0] / 1e9:.1f} GB/s, memcpy {speeds[1] / 1e9:.1f} GB/s; {len(times['none'].wall_s)} rounds"
    )
    found: list[Result] = []
    for every in (1, 10):
        ours = f"ours.{every}"
        saves = {
            f"torch {torch_version} (torch.save to {where})": of(f"torch.save {where}", 10) * 10 / every
            for where in ("memory", "disk")
        }
        peers = {f"torch {torch_version} (DCP async_save to memory)": of(f"dcp.{every}", every), **saves}
        if every == 1:
            peers["the same copy in a thread beside forward and backward"] = of("beside.1", 1)
        cpu = share(times[ours].cpu_s, times["none"].cpu_s, every)
        note = f"{about}; {cpu:.4f} of the processor time"
        found.append(Result(f"faults.peer_copy.{every}", of(ours, every), "share", peers, note))
    return found
