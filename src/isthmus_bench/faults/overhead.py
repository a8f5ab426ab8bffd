"""faults.overhead: what watching costs while nothing happens, as a share of the CPU time of the whole run.

CPU seconds, as wall time drifts by more than is looked for. The agent's and its nursery's are what the system
counts; what a rank does for others to see it is counted in the run (collectives, phases, pulses) and timed
call by call in this process (page, checksum of a part of the state, norm of the own gradient, a pulse).
"""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

import msgspec
import torch

from isthmus.comm.collective import SoloCollective
from isthmus.faults.detect.process import read_process
from isthmus.faults.page import PageView, PageWriter, Phase
from isthmus.heal.lifeline import PULSE_S, RankLine
from isthmus.models.transformer import Transformer
from isthmus.parallel.bits import HASHED_PARTS
from isthmus.spec.count import count_params
from isthmus.spec.run import RunSpec
from isthmus.train.learner import Learner
from isthmus_bench.document import Result
from isthmus_bench.faults.crew import NUM_RANKS, Crew, run_spec
from isthmus_bench.faults.detect import page_cost
from isthmus_bench.faults.drill import nursery_pids, rank_pids, standby_pids

ENDLESS = 1_000_000
BATCH = 32
"""Eight rows of 64 tokens for each rank: steps of some tenths of a second."""
PHASES = 6
"""That a step goes through once; forward and backward come with each of its micro-batches."""
CALLS = 640


class Spent(msgspec.Struct, frozen=True):
    """CPU seconds and steps of a run, over `wall_s`."""

    agent_s: float
    ranks_s: float
    steps: int
    collectives: int
    """Of one rank."""
    wall_s: float


class Costs(msgspec.Struct, frozen=True):
    """CPU seconds of one rank."""

    page_s: float
    """All writes of a step."""
    checksum_s: float
    norm_s: float
    pulse_s: float
    """Of one pulse."""


def run(quick: bool) -> list[Result]:
    spec = run_spec(ENDLESS, batch=BATCH)
    spent = spend(spec, 10.0 if quick else 120.0)
    costs = rank_costs(spec, spent.collectives / spent.steps)
    share, parts = shares(spent, costs)
    each = ", ".join(f"{name} {part:.3%}" for name, part in parts.items())
    note = (
        f"of the run's CPU time over {spent.wall_s:.0f} s, {NUM_RANKS} ranks: {each}; a step takes "
        f"{spent.ranks_s / spent.steps / NUM_RANKS * 1e3:.0f} ms of a rank's CPU; the agent looks 20 times a "
        f"second and uses {spent.agent_s / spent.wall_s / len(os.sched_getaffinity(0)):.2%} of the machine"
    )
    return [Result("faults.overhead", share, "share", note=note)]


def shares(spent: Spent, costs: Costs) -> tuple[float, dict[str, float]]:
    """All of it, and what of it."""
    whole_s = spent.agent_s + spent.ranks_s
    rank_steps = spent.steps * NUM_RANKS
    parts = {
        "agent": spent.agent_s,
        "page": costs.page_s * rank_steps,
        "checksum": costs.checksum_s * rank_steps,
        "norm of the own gradient": costs.norm_s * rank_steps,
        "pulses": costs.pulse_s * NUM_RANKS * spent.wall_s / PULSE_S,
    }
    parts = {name: seconds / whole_s for name, seconds in parts.items()}
    return sum(parts.values()), parts


def spend(spec: RunSpec, duration_s: float) -> Spent:
    """Lets a run go on undisturbed, once all is warm. A standby that waits costs what it costs."""
    with Crew(spec) as crew:
        crew.wait_step(3)
        crew.wait_standby()
        time.sleep(2.0)
        assert crew.agent.process
        agent = [crew.agent.process.pid, *nursery_pids(crew)]
        ranks = [*rank_pids(crew), *standby_pids(crew)]
        start_s, before = time.monotonic(), (_cpu_s(agent), _cpu_s(ranks), _furthest(crew))
        time.sleep(duration_s)
        after = (_cpu_s(agent), _cpu_s(ranks), _furthest(crew))
        first, last = before[2], after[2]
        return Spent(
            agent_s=after[0] - before[0],
            ranks_s=after[1] - before[1],
            steps=max(1, last.step - first.step),
            collectives=last.issued - first.issued,
            wall_s=time.monotonic() - start_s,
        )


def _cpu_s(pids: Iterable[int]) -> float:
    return sum(process.cpu_s for pid in pids if (process := read_process(pid)))


def _furthest(crew: Crew) -> PageView:
    return max((page for page in crew.pages() if page.phase != Phase.IDLE), key=lambda page: page.step)


def rank_costs(spec: RunSpec, collectives: float) -> Costs:
    calls = page_cost(num_calls=CALLS)
    micro_batches = spec.train.batch_size / NUM_RANKS / spec.train.micro_batch_size
    page_ns = (PHASES + 2 * micro_batches) * calls.phase + calls.end_step + calls.hashed
    page_ns += collectives * (calls.issue + calls.wait + calls.resume)
    learner = Learner(Transformer(spec.model), spec.train, SoloCollective(), 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts = iter(range(10**9))
        checksum_s = _cost_s(lambda: learner.checksum(next(parts) % HASHED_PARTS, HASHED_PARTS))
        gradient = torch.ones(count_params(spec.model))
        norm_s = _cost_s(lambda: torch.linalg.vector_norm(gradient))
    finally:
        torch.set_num_threads(threads)
    return Costs(page_s=page_ns / 1e9, checksum_s=checksum_s, norm_s=norm_s, pulse_s=_pulse_s())


def _pulse_s() -> float:
    """What the listening thread does when nobody has spoken: it wakes up and writes to the page."""
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryDirectory() as folder, theirs:
        page, line = PageWriter(Path(folder) / "page"), RankLine(ours)

        def pulse() -> None:
            line.receive(0.001)
            page.pulse()

        try:
            return _cost_s(pulse)
        finally:
            line.close()


def _cost_s(call: Callable[[], object]) -> float:
    """CPU seconds of one call in this thread, the median of some runs."""

    def once() -> float:
        start_s = time.thread_time()
        for _ in range(CALLS // 10):
            call()
        return (time.thread_time() - start_s) / (CALLS // 10)

    return median(once() for _ in range(10))
