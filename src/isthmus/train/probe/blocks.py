"""The blocks of a run's model, timed in real steps of a smaller model that has a few of its layers."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from isthmus import chips
from isthmus.comm.collective import Collective
from isthmus.data.dataset import Dataset
from isthmus.journal.writer import Journal
from isthmus.planner.make import make_plan
from isthmus.planner.probed.extract import extract
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.run import RunSpec
from isthmus.train.batches import Batches
from isthmus.train.feed import LocalFeed, Offer, Work
from isthmus.train.job import Crew, Job
from isthmus.train.lead import Lead
from isthmus.train.loop import build_model
from isthmus.train.orders import share_order
from isthmus.train.probe.stamps import KeptBytes, Passes, StampedLearner, Stamps, by_step
from isthmus.train.signals import Leave
from isthmus.train.standing import Standing
from isthmus.units import Count, Seconds

SITE = "probe"
WARM_UP_STEPS = 3
ROUND_STEPS = 4
"""Steps of one size in a row; the first of them is not counted."""
MOST_ROUNDS = 12


class Plan(NamedTuple):
    """What is measured: sequences in a micro-batch, and for how long."""

    sizes: list[int]
    budget_s: float


@dataclass
class Taken:
    """Of one micro-batch size, on this rank."""

    size: int
    steps: list[Passes]
    kept: dict[str, int]
    peak_bytes: int | None
    """Over what the process held before there was a model; None: not known, as a larger size came before."""


class _Feed(LocalFeed):
    """Hands out as much as is asked for by setting `wanted`."""

    wanted = 1

    def next(self, num_sequences: int) -> Offer:
        return super().next(self.wanted)


def sizes_up_to(micro_batch: int, quick: bool) -> list[int]:
    """Micro-batches to time: the run's, and fractions of it."""
    parts = (2, 1) if quick else (4, 2, 1)
    return sorted({max(1, micro_batch // part) for part in parts})


def probe_run(run: RunSpec) -> RunSpec:
    """The run with the few layers that are timed, and nothing that happens now and then."""
    train = msgspec.structs.replace(
        run.train, tokens=Count(10**15), eval_every=Seconds(0), checkpoint_every=Seconds(0), init_from=""
    )
    return msgspec.structs.replace(run, model=extract(run.model), train=train)


class Bench:
    """A rank in training, step by step, as `train.loop` does it."""

    def __init__(self, run: RunSpec, dataset: Dataset, group: Collective, where: tuple[str, Path, int]):
        chip, folder, local_rank = where
        self.chip, self.group = chips.get(chip), group
        run = msgspec.structs.replace(
            run, train=msgspec.structs.replace(run.train, batch_size=group.world_size, micro_batch_size=1)
        )
        fleet = FleetSpec(sites={SITE: SiteSpec(nodes=[NodeSpec(chips={chip: group.world_size})])})
        self._job = Job(run, make_plan(fleet, run), SITE, folder, local_rank)
        self._dataset, self._lr = dataset, run.train.lr / 10
        self._exit = ExitStack()

    def __enter__(self) -> "Bench":
        job, group = self._job, self.group
        self.held_bytes = self.chip.reset_peak()
        self.stamps = Stamps(self.chip)
        self.learner = StampedLearner(build_model(job, group), job.run.train, group, self.stamps)
        self._feed = _Feed(job.plan.total_samples)
        self._standing = Standing()
        self._lead: Lead | None = None
        if group.rank == 0:
            journal = self._exit.enter_context(Journal(job.folder, f"rank/{SITE}/0"))
            self._lead = Lead(Crew(job, self._dataset, group, self.learner, journal, Leave()), self._standing)
            self._lead.open(self._feed)
        self._batches = self._exit.enter_context(Batches(self._dataset, group.rank, group.world_size))
        return self

    def __exit__(self, *exc: object) -> None:
        self._exit.close()

    def steps(self, count: int, size: int, micro_batches: int) -> list[Passes]:
        """`count` steps of so many micro-batches of `size` sequences on each rank; all but the first."""
        self.learner.micro_batch = size
        self._feed.wanted = size * micro_batches * self.group.world_size
        for _ in range(count):
            task = share_order(self.group, self._lead.decide if self._lead else None).offer.task
            assert isinstance(task, Work)
            result = self.learner.step(self._batches.load(task.ranges), self._lr)
            self._standing.stepped(task, result, self._lr, self._dataset.seq_len)
            if self._lead:
                self._lead.stepped()
                self._lead.count_experts(result.experts)
        return by_step(self.stamps.take())[1:]

    def kept(self, size: int) -> dict[str, int]:
        """Bytes kept for backward, by block, of a step of one micro-batch."""
        counted = KeptBytes(self.stamps, self.learner.model)
        with torch.autograd.graph.saved_tensors_hooks(counted.pack, counted.unpack):
            self.steps(1, size, 1)
        return counted.by_block


def take_steps(bench: Bench, plan: Plan) -> Iterator[float | list[Taken]]:
    """Yields the part done, between 0 and 1, and at last what was taken.

    The sizes take turns, so that a machine that slows down for some seconds slows all of them alike.
    """
    micro_batches = 2 if bench.group.world_size == 1 else 3
    taken: list[Taken] = []
    step_s = 0.0
    smallest, *others = plan.sizes
    for size in [
        smallest,
        *reversed(others),
    ]:  # the fewer came before, the less an allocator's leavings count
        bench.group.barrier()
        kept = bench.kept(size)
        passes = bench.steps(WARM_UP_STEPS, size, micro_batches)
        step_s += total_s(passes[-1])
        is_largest = all(size > each.size for each in taken)
        peak_bytes = bench.chip.peak_bytes() - bench.held_bytes if is_largest else None
        taken.append(Taken(size, [], kept, peak_bytes))
        yield 0.2 * len(taken) / len(plan.sizes)
    rounds = max(2, min(MOST_ROUNDS, int(plan.budget_s / (ROUND_STEPS * step_s))))
    (rounds,) = bench.group.share([rounds])
    for index in range(rounds):
        for each in taken:
            each.steps += bench.steps(ROUND_STEPS, each.size, micro_batches)
        yield 0.2 + 0.8 * (index + 1) / rounds
    yield taken


def total_s(step: Passes) -> float:
    return sum(sum(pieces.values()) for pieces in step)


def mean_over_ranks(group: Collective, values: Sequence[float], device: str) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    group.all_reduce_(tensor)
    return (tensor / group.world_size).tolist()


def middle(steps: Sequence[Passes], pick: slice, block: str, way: str) -> list[float]:
    """Seconds of a block in each step: the mean over the micro-batches in `pick`."""
    found: list[float] = []
    for step in steps:
        values = [seconds for pieces in step[:-1][pick] for piece, seconds in pieces.items()
                  if piece == (block, way)]  # fmt: skip
        found.append(sum(values) / max(1, len(step[:-1][pick])))
    return found


def rest(steps: Sequence[Passes], block: str) -> list[float]:
    """Seconds of a piece that is no micro-batch's, in each step."""
    return [sum(s for piece, s in step[-1].items() if piece.block == block) for step in steps]


def at_middle(values: Sequence[float]) -> float:
    return float(median(values)) if values else 0.0


class RandomRows:
    """Rows of one document each, of no text: where the run's data is not to be read."""

    def __init__(self, vocab_size: int, seq_len: int):
        self.vocab_size, self.seq_len = vocab_size, seq_len

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(indices), self.seq_len + 1)
        draws = np.random.default_rng(int(indices[0]) if len(indices) else 0)
        tokens = draws.integers(0, self.vocab_size, shape, dtype=np.int32)
        return tokens, np.zeros(shape, np.int32)
