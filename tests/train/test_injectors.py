"""Faults on purpose, in a toy loop: in this process where it survives, in forked ones where it does not."""

import faulthandler
import os
import signal
import threading
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from isthmus.comm.collective import Collective, SoloCollective
from isthmus.comm.local import run_ranks
from isthmus.errors import CheckFailedError, InputError, StorageError
from isthmus.faults.inject.kinds import KINDS, Point
from isthmus.heal.messages import Inject
from isthmus.journal.store import DiskStore
from isthmus.parallel.data_parallel import DataParallel
from isthmus.spec.model import ModelSpec
from isthmus.train import process_faults
from isthmus.train.checkpoint import Facts, load_newest, write_checkpoint
from isthmus.train.injectors import Injectors

HERE = SoloCollective()


class Toy:
    """A training loop of the usual shape."""

    def __init__(self, injectors: Injectors, group: Collective = HERE):
        torch.manual_seed(7)
        self.model = torch.nn.Linear(4, 4)
        self.injectors, self.group = injectors, group
        self.parallel = DataParallel(self.model, group)
        self.parameters = list(self.model.parameters())
        self.step = 0
        self.grad_norms: list[float] = []

    def run(self, steps: int) -> "Toy":
        at, parameters = self.injectors.at, self.parameters
        at(Point.START, self.step)
        for _ in range(steps):
            at(Point.STEP_BEGIN, self.step)
            at(Point.DATA, self.step)
            rows = torch.ones(2, 4)
            at(Point.COMPUTE, self.step)
            at(Point.GRADIENT, self.step, parameters=parameters)
            self.parallel.backward(self.model(rows).pow(2).mean(), 2, last=True)
            at(Point.EXCHANGE, self.step, parameters=parameters, group=self.group)
            self.parallel.finish()
            self.grad_norms.append(sum(float(p.grad.norm()) for p in parameters if p.grad is not None))
            for parameter in parameters:
                if parameter.grad is not None and torch.isfinite(parameter.grad).all():
                    parameter.data -= 0.01 * parameter.grad
                parameter.grad = None
            self.step += 1
            at(Point.COMMIT, self.step, parameters=parameters)
        return self


def in_child(work: Callable[[], object]) -> int:
    """Wait status of a forked process that does this; one that comes to the end of it exits with 42. Errors
    that reach the top give 43.
    """
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        code = 43
        try:
            work()
            code = 42
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return status


def run_with(inject: Inject, steps: int = 3) -> Toy:
    injectors = Injectors()
    injectors.add(inject)
    return Toy(injectors).run(steps)


@pytest.mark.parametrize(
    ("kind", "number"), [("kill", signal.SIGKILL), ("crash", signal.SIGSEGV), ("abort", signal.SIGABRT)]
)
@pytest.mark.parametrize("at_step", [-1, 2])
def test_deaths_by_signal(kind: str, number: signal.Signals, at_step: int):
    assert os.WTERMSIG(in_child(lambda: run_with(Inject(kind, at_step)))) == number


def test_an_exit_without_a_word():
    assert in_child(lambda: run_with(Inject("exit", 1))) == 0


def test_an_error_of_the_program_at_its_step():
    injectors = Injectors()
    injectors.add(Inject("error", 2))
    toy = Toy(injectors)
    with pytest.raises(KeyError, match="position_ids"):
        toy.run(5)
    assert toy.step == 2


def test_stopped_until_it_is_told_to_go_on():
    pid = os.fork()
    if pid == 0:
        run_with(Inject("stop", 1))
        os._exit(42)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(pid, signal.SIGCONT)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 42


@pytest.mark.parametrize("kind", ["sleep", "busy", "loader"])
def test_pauses_hold_the_main_thread_alone(kind: str):
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.005):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        start_s = time.monotonic()
        run_with(Inject(kind, 1, 0.2))
        assert time.monotonic() - start_s >= 0.2
    finally:
        done.set()
        thread.join()
    assert len([at_s for at_s in ticks if at_s > start_s]) >= 2


def test_the_interpreter_lock_is_held_against_all_threads():
    """Also where a listener asks for it while the main thread is at something else."""
    gaps: list[float] = []
    injectors = Injectors()
    listener = threading.Thread(target=injectors.add, args=(Inject("gil", value=0.3),))
    last_s = time.monotonic()
    listener.start()
    while listener.is_alive():
        now_s = time.monotonic()
        gaps.append(now_s - last_s)
        last_s = now_s
    gaps.append(time.monotonic() - last_s)
    assert max(gaps) >= 0.25


def test_at_once_from_a_listener_kills_whatever_the_rank_is_at():
    def work() -> None:
        injectors = Injectors()
        threading.Timer(0.05, injectors.add, args=(Inject("kill"),)).start()
        time.sleep(30.0)

    start_s = time.monotonic()
    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    assert time.monotonic() - start_s < 20.0


@pytest.mark.parametrize(("place", "point"), [("saving", Point.SAVING), ("recovering", Point.RECOVERING)])
def test_some_wait_for_a_place(place: str, point: Point):
    injectors = Injectors()
    injectors.add(Inject("error", 1, at=place))
    toy = Toy(injectors)
    injectors.at(point, 0)
    toy.run(3)
    with pytest.raises(KeyError):
        injectors.at(point, 3)


def test_a_missing_rank_never_gets_past_its_start():
    pid = os.fork()
    if pid == 0:
        run_with(Inject("missing"), steps=0)
        os._exit(42)
    time.sleep(0.2)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_nan_for_one_step_and_for_all_ranks():
    def rank(group: Collective) -> list[bool]:
        injectors = Injectors()
        if group.rank == 1:
            injectors.add(Inject("nan", 2))
        return [bool(np.isfinite(norm)) for norm in Toy(injectors, group).run(5).grad_norms]

    assert run_ranks(rank, 2) == [[True, True, False, True, True]] * 2


def test_nan_in_a_gradient_that_is_there_already():
    injectors = Injectors()
    injectors.add(Inject("nan"))
    weight = torch.nn.Parameter(torch.ones(3))
    weight.sum().backward()
    injectors.at(Point.GRADIENT, 0, parameters=[weight])
    assert weight.grad is not None
    assert weight.grad.isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bit", [0, 1, 3, 8])
def test_one_exponent_bit_and_nothing_else(dtype: torch.dtype, bit: int):
    injectors = Injectors()
    injectors.add(Inject("flip", 4, bit))
    weight = torch.nn.Parameter(torch.tensor([0.01, 0.02, -0.03], dtype=dtype))
    before = weight.detach().clone()
    injectors.at(Point.COMMIT, 3, parameters=[weight])
    assert torch.equal(weight, before)
    injectors.at(Point.COMMIT, 4, parameters=[weight])
    injectors.at(Point.COMMIT, 5, parameters=[weight])
    integers = torch.int32 if dtype == torch.float32 else torch.int16
    changed = (weight.detach().view(integers) ^ before.view(integers)).tolist()
    assert [bin(value & 0xFFFFFFFF).count("1") for value in changed] == [0, 0, 1]
    if bit in (0, 3) and dtype != torch.float16:
        assert float(weight.detach()[2] / before[2]) in (2.0**4, 2.0**-4)


def test_a_collective_of_another_size_breaks_the_group():
    def rank(group: Collective) -> int:
        injectors = Injectors()
        if group.rank == 1:
            injectors.add(Inject("mismatch", 2))
        return Toy(injectors, group).run(5).step

    with pytest.raises(CheckFailedError):
        run_ranks(rank, 2, 8.0)


def test_slow_until_it_is_ended():
    injectors = Injectors()
    injectors.add(Inject("slow", 2, 4.0))
    toy = Toy(injectors)

    def compute(point: Point, step: int) -> None:
        injectors.at(point, step)
        time.sleep(0.02)

    took_s: list[float] = []
    for step in range(6):
        if step == 4:
            injectors.add(Inject("slow", value=1.0))
        start_s = time.monotonic()
        compute(Point.COMPUTE, step)
        injectors.at(Point.EXCHANGE, step, group=toy.group)
        took_s.append(time.monotonic() - start_s)
    assert min(took_s[2:4]) >= 0.079
    assert min(took_s[:2] + took_s[4:]) < 0.079


def test_a_leak_grows_with_every_step():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def work() -> None:
        injectors = Injectors()
        toy = Toy(injectors).run(2)
        before = resident()
        injectors.add(Inject("leak", value=40.0))  # blocks of this size are mapped afresh
        toy.run(6)
        assert resident() - before > 150e6

    assert os.waitstatus_to_exitcode(in_child(work)) == 42


def test_out_of_memory_stops_at_its_limit_and_is_refused_without_one():
    assert os.WTERMSIG(in_child(lambda: run_with(Inject("oom", 1, 32.0)))) == signal.SIGKILL
    for value in (0.0, 1e9):
        with pytest.raises(InputError, match="oom"):
            Injectors().add(Inject("oom", value=value))


def write(store: DiskStore, folder: Path, step: int) -> None:
    facts = Facts(step=step, tokens=0, progress=0.0, version=0, model=ModelSpec(), data="")
    write_checkpoint(store, folder, facts, {"w": np.full(100, step, np.float32)}, {})


def test_a_full_disk_for_so_many_saves(tmp_path: Path):
    injectors = Injectors()
    write(injectors.disk, tmp_path, 1)
    injectors.add(Inject("disk_full", value=2.0))
    injectors.at(Point.STEP_BEGIN, 1)
    for step in (2, 3):
        with pytest.raises(StorageError, match="No space"):
            write(injectors.disk, tmp_path, step)
    write(injectors.disk, tmp_path, 4)
    found, skipped = load_newest(DiskStore(), tmp_path)
    assert found is not None
    assert (found.facts.step, skipped) == (4, [])


@pytest.mark.parametrize("kind", ["corrupt", "truncate"])
def test_the_newest_checkpoint_is_damaged_once_there_is_one(kind: str, tmp_path: Path):
    injectors = Injectors(tmp_path)
    injectors.add(Inject(kind))
    injectors.at(Point.STEP_BEGIN, 0)
    write(injectors.disk, tmp_path, 1)
    write(injectors.disk, tmp_path, 2)
    injectors.at(Point.STEP_BEGIN, 2)
    found, skipped = load_newest(DiskStore(), tmp_path)
    assert found is not None
    assert found.facts.step == 1
    assert len(skipped) == 1


def test_a_clock_that_is_wrong():
    injectors = Injectors()
    injectors.add(Inject("clock", value=-90.0))
    assert abs(injectors.clock.wall_s() - time.time()) < 5.0
    injectors.at(Point.STEP_BEGIN, 0)
    assert -95.0 < injectors.clock.wall_s() - time.time() < -85.0


def test_who_listens_is_told_before_it_happens():
    told: list[tuple[str, int]] = []
    injectors = Injectors(told=lambda inject, step: told.append((inject.kind, step)))
    injectors.add(Inject("error", 2))
    injectors.add(Inject("clock", 1))
    with pytest.raises(KeyError):
        Toy(injectors).run(3)
    assert told == [("clock", 1), ("error", 2)]


@pytest.mark.parametrize(
    "inject",
    [
        Inject("earthquake"),
        Inject("link_cut"),
        Inject("keeper"),
        Inject("kill", value=3.0),
        Inject("slow", value=0.5),
        Inject("flip", value=9.0),
        Inject("nan", at="saving"),
        Inject("corrupt"),
    ],
)
def test_what_is_no_fault_of_a_rank_is_refused(inject: Inject):
    with pytest.raises(InputError):
        Injectors().add(inject)


def test_every_kind_of_a_rank_is_made_by_someone():
    """`make` knows those that this module's tests cannot survive, or the list above has them."""
    by_hand = {"nan", "flip", "mismatch", "slow", "leak", "disk_full", "clock", "corrupt", "truncate"}
    for kind in KINDS.values():
        if kind.actor in ("rank", "files") and kind.name not in by_hand:
            assert f'"{kind.name}"' in Path(process_faults.__file__).read_text()


def test_nothing_planned_costs_nothing():
    injectors, count = Injectors(), 100_000
    seconds = min(timeit.repeat(lambda: injectors.at(Point.STEP_BEGIN, 1), number=count, repeat=5))
    assert seconds / count < 5e-6
