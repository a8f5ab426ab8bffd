"""Several sites and their parameter server in one process: the real model, data, codecs and merge, without
sockets, clocks and chance. What it computes depends on its arguments alone.

Each site does `inner_steps` steps, pushes, and takes the result up `delay` steps later, as in strict mode.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from isthmus.comm.collective import SoloCollective
from isthmus.data.dataset import Dataset
from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer, expert_groups
from isthmus.outer.bridge import Vectors
from isthmus.outer.layout import Layout, build_layout
from isthmus.outer.merge import MasterState, Publication, Push, Rule, merge, publish
from isthmus.outer.parameters import Exchange
from isthmus.outer.replica import Replica
from isthmus.outer.weights import Share
from isthmus.spec.run import OuterSpec, RunSpec
from isthmus.train.learner import Learner
from isthmus.train.schedule import learning_rate

Floats = np.ndarray
OnVersion = Callable[[int, Floats], None]
"""Called with each version's number and its published parameters, f32[size] in the layout's order."""


class Plan(NamedTuple):
    """How the run is cut: every inner step of the run reads `num_sites * batch_size` samples in all."""

    num_sites: int
    batch_size: int
    num_steps: int
    delay: int = 0

    @property
    def num_samples(self) -> int:
        return self.num_sites * self.batch_size * self.num_steps

    def samples(self, step: int, site: int) -> np.ndarray:
        """Global indices int64[batch_size] of step 0, 1, ...: the sites share what one site would read."""
        start = (step * self.num_sites + site) * self.batch_size
        return np.arange(start, start + self.batch_size, dtype=np.int64)

    def progress(self, step: int) -> float:
        """Share of the samples handed out once `step` is done; the same at all sites."""
        return (step + 1) / self.num_steps


def make_learner(run: RunSpec, batch_size: int) -> Learner:
    """A site of one CPU rank in fp32, with the run's first weights."""
    model = Transformer(run.model)
    init_weights(model, run.train.seed)
    return Learner(model, run.train, SoloCollective(), run.train.micro_batch_size or batch_size)


def make_layout(learner: Learner, num_fragments: int = 0) -> Layout:
    shapes = [(name, tuple(p.shape)) for name, p in learner.model.named_parameters()]
    return build_layout(shapes, expert_groups(learner.model), num_fragments)


def train_together(run: RunSpec, dataset: Dataset, plan: Plan) -> Learner:
    """Fully synchronous data parallelism over the same samples, step by step: one learner reads them all."""
    learner = make_learner(run, plan.num_sites * plan.batch_size)
    for step in range(plan.num_steps):
        indices = np.concatenate([plan.samples(step, site) for site in range(plan.num_sites)])
        learner.step(dataset.batch(indices), learning_rate(run.train, plan.progress(step)))
    return learner


class Site(AbstractContextManager["Site"]):
    """What a site's rank and client do, called in turn."""

    def __init__(self, name: str, learner: Learner, layout: Layout, outer: OuterSpec):
        self.name, self.learner = name, learner
        self._vectors = Vectors.make(layout.size)
        self._exchange = Exchange(learner.model, layout, self._vectors)
        self._replica = Replica(layout, self._vectors, outer.codec, outer.down_codec, outer.block_size)
        self._seq = 0
        self._tokens = 0
        self._groups: list[int] = []

    def start(self, published: list[np.ndarray]) -> None:
        """Takes the first version up, sent in full."""
        self._replica.install([fragment.view(np.uint8) for fragment in published], full=True)
        self._replica.offer(None)
        self._exchange.load()
        self._replica.taken()

    def step(self, dataset: Dataset, indices: np.ndarray, lr: float) -> None:
        result = self.learner.step(dataset.batch(indices), lr)
        self._tokens += len(indices) * dataset.seq_len
        old = self._groups or [0] * len(result.expert_tokens)
        self._groups = [a + b for a, b in zip(old, result.expert_tokens, strict=True)]

    def push(self) -> Push:
        self._seq += 1
        self._exchange.save()
        self._replica.encode(self.name, 1, self._seq)
        push = Push(
            Share(site=self.name, tokens=self._tokens, group_tokens=tuple(self._groups)),
            self._replica.payloads,
        )
        self._tokens, self._groups = 0, []
        return push

    def take_up(self, version: Publication) -> None:
        """Its own contribution is in it, so nothing is in flight."""
        self._replica.forget(self._seq, discarded=False)
        self._replica.install(version.payloads, full=False)
        self._replica.offer(None)
        self._exchange.take_up()
        self._replica.taken()

    def __exit__(self, *exc: object) -> None:
        self._vectors.remove()


def train_federated(
    run: RunSpec, dataset: Dataset, plan: Plan, on_version: OnVersion | None = None
) -> Learner:
    """Trains and returns a learner that holds the server's exact master."""
    assert plan.delay < run.outer.inner_steps
    first = make_learner(run, plan.batch_size)
    layout = make_layout(first, run.outer.fragments)
    master = MasterState.from_flat(layout, _flat(first, layout))
    outer = run.outer
    rule = Rule(optimizer=outer.optimizer, lr=outer.lr, momentum=outer.momentum, codec=outer.codec,
                block=outer.block_size)  # fmt: skip
    with ExitStack() as stack:
        sites = [
            stack.enter_context(Site(f"site{index}", learner, layout, outer))
            for index, learner in enumerate([first, *_others(run, plan)])
        ]
        for site in sites:
            site.start(master.published)
        waiting: Publication | None = None
        for step in range(plan.num_steps):
            lr = learning_rate(run.train, plan.progress(step))
            for index, site in enumerate(sites):
                site.step(dataset, plan.samples(step, index), lr)
            since_push = (step + 1) % outer.inner_steps
            is_last = step + 1 == plan.num_steps
            if waiting and (since_push == plan.delay or is_last):
                waiting = _take_up(sites, waiting)
            if since_push == 0 or is_last:
                merge(master, [site.push() for site in sites], rule)
                waiting = publish(master, outer.down_codec, outer.block_size)
                if on_version:
                    on_version(master.version, np.concatenate(master.published))
                if plan.delay == 0:
                    waiting = _take_up(sites, waiting)
        _load(first, layout, np.concatenate(master.master))
    return first


def _take_up(sites: list[Site], version: Publication) -> None:
    for site in sites:
        site.take_up(version)


def _others(run: RunSpec, plan: Plan) -> Iterator[Learner]:
    for _ in range(1, plan.num_sites):
        yield make_learner(run, plan.batch_size)


def _flat(learner: Learner, layout: Layout) -> np.ndarray:
    flat = np.empty(layout.size, np.float32)
    layout.pack(learner.parameters(), flat)
    return flat


@torch.no_grad()
def _load(learner: Learner, layout: Layout, flat: np.ndarray) -> None:
    tensors = layout.unpack(flat)
    for name, parameter in learner.model.named_parameters():
        parameter.copy_(torch.from_numpy(tensors[name]))


def with_rate(run: RunSpec, lr: float, seed: int) -> RunSpec:
    """The run with another learning rate, and other first weights."""
    return msgspec.structs.replace(run, train=msgspec.structs.replace(run.train, lr=lr, seed=seed))
