"""The adaptive coefficient against fixed ones, on a stream that loads the experts unevenly.

The stream has topics of very unequal frequency, each with bigrams of its own, so that a router which sends
topics to experts overloads some. Expert capacity is limited: what is above it is dropped.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch

from isthmus.comm.collective import SoloCollective
from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer
from isthmus.spec.balance import BalanceSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import TrainSpec
from isthmus.train.balance import drop_rate
from isthmus.train.learner import Learner
from isthmus.train.schedule import learning_rate
from isthmus.units import Count
from isthmus_bench.document import Result

MODEL = ModelSpec(
    vocab_size=128, hidden_size=64, num_layers=3, num_heads=4, num_kv_heads=4, head_dim=16, ffn_size=64,
    num_experts=8, top_k=2, first_moe_layer=1, gate_norm=1.0,
)  # fmt: skip
CAPACITY = 1.25
FIXED = (0.0, 1e-3, 1e-2)
TOPICS, SEQ_LEN, BATCH = 8, 64, 32
TAIL = 0.2
"""Share of the steps, at the end, over which the drop rate is taken."""


class Stream:
    """Sequences of one topic each, with a sparse table of bigrams; topic r comes as often as (r + 1)^-1.5."""

    def __init__(self, seed: int):
        draws = np.random.default_rng(seed)
        sharp = draws.gamma(0.05, size=(TOPICS, MODEL.vocab_size, MODEL.vocab_size)) + 1e-4
        self._table = (sharp / sharp.sum(-1, keepdims=True)).cumsum(-1)
        weights = (np.arange(TOPICS) + 1.0) ** -1.5
        self._topics = weights / weights.sum()

    def rows(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, document numbers), int32 [count, SEQ_LEN + 1]."""
        draws = np.random.default_rng((seed, 1))
        topics = draws.choice(TOPICS, count, p=self._topics)
        tokens = np.empty((count, SEQ_LEN + 1), dtype=np.int32)
        tokens[:, 0] = draws.integers(0, MODEL.vocab_size, count)
        for place in range(SEQ_LEN):
            row = self._table[topics, tokens[:, place]]
            tokens[:, place + 1] = (draws.random((count, 1)) > row).sum(-1).clip(max=MODEL.vocab_size - 1)
        return tokens, np.zeros_like(tokens)


class Arm(NamedTuple):
    """One training run."""

    balance: BalanceSpec
    steps: int
    seed: int


class End(NamedTuple):
    """What it came to."""

    loss: float
    """On held-out sequences, none dropped."""
    drop_rate: float
    """Mean over the layers and the last steps."""
    coef: float
    """Mean over the layers, at the end."""


def run(quick: bool) -> list[Result]:
    """Seconds in quick mode, about seven minutes on two cores otherwise."""
    steps, seeds = (40, 1) if quick else (1000, 3)
    kinds = {f"fixed {coef:g}": BalanceSpec(capacity=CAPACITY, coef=coef) for coef in FIXED}
    kinds["adaptive"] = BalanceSpec(capacity=CAPACITY, adaptive=True)
    arms = [(kind, Arm(spec, steps, seed)) for kind, spec in kinds.items() for seed in range(seeds)]
    with ProcessPoolExecutor(
        2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as processes:
        ends = list(processes.map(train, [arm for _, arm in arms]))
    of = {kind: _mean([end for arm, end in zip(arms, ends, strict=True) if arm[0] == kind]) for kind in kinds}
    best = min(of[kind].loss for kind in kinds if kind != "adaptive")
    last = of["adaptive"]
    settings = (
        f"{steps} steps, {seeds} seed(s), capacity {CAPACITY}, {MODEL.num_experts} experts, top-{MODEL.top_k}"
    )
    return [
        Result(
            "balance.adaptive.loss",
            last.loss / best,
            "ratio",
            {kind: end.loss / best for kind, end in of.items() if kind != "adaptive"},
            f"held-out loss, over that of the best fixed coefficient, {best:.4f}; {settings}",
        ),
        Result(
            "balance.adaptive.drop_rate",
            last.drop_rate,
            "ratio",
            {kind: end.drop_rate for kind, end in of.items() if kind != "adaptive"},
            f"of all choices, in the last {TAIL:.0%} of the steps; the coefficient ended at {last.coef:.2g}",
        ),
    ]


def _mean(ends: list[End]) -> End:
    return End(*(mean(values) for values in zip(*ends, strict=True)))


def train(arm: Arm) -> End:
    model = Transformer(MODEL)
    init_weights(model, arm.seed)
    spec = TrainSpec(
        lr=1e-2, balance=arm.balance, tokens=Count(arm.steps * BATCH * SEQ_LEN), precision="fp32"
    )
    learner, stream = Learner(model, spec, SoloCollective(), BATCH), Stream(arm.seed)
    rates, coef = [], 0.0
    for step in range(arm.steps):
        rows = stream.rows(BATCH, 10_000 * arm.seed + step)
        stats = learner.step(rows, learning_rate(spec, step / arm.steps)).experts
        rates.append(float(drop_rate(stats.load_LE, stats.dropped_LE).mean()))
        coef = float(stats.coef_L.mean())
    held_out = learner.evaluate(stream.rows(512, 10_000 * arm.seed + 9_999))
    return End(held_out, mean(rates[-max(1, int(arm.steps * TAIL)) :]), coef)
