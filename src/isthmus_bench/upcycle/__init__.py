"""`isthmus bench upcycle`: does an upcycled model beat the dense one that is trained on, at equal tokens?

The three kinds of arms have their learning rates from one grid, chosen by the first seed on the text that
is reported; variants take the rate of what they vary.
"""

from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from statistics import mean
from typing import NamedTuple

import torch

from isthmus.data.dataset import prepare
from isthmus.spec.count import count_active_params, count_params
from isthmus.weights.tensorfile import Arrays
from isthmus.weights.upcycle import Recipe, moe_spec
from isthmus_bench.document import Result
from isthmus_bench.upcycle.arms import (
    BATCH,
    DENSE,
    SEQ_LEN,
    Arm,
    Curve,
    data_spec,
    logit_difference,
    train_arm,
    train_base,
)

PLAIN = Recipe(copies=8)
NOISY = Recipe(copies=8, noise=0.1)
HALVES = Recipe(copies=8, top_k=1, granularity=2)
"""As many multiplications for a token as in the dense model."""
MORE_COMPUTE = count_active_params(moe_spec(DENSE, PLAIN)) / count_active_params(DENSE)
"""Multiplications for a token in the MoE model over those in the dense one."""

ON, UPCYCLED, SCRATCH = "dense, trained on", "upcycled", "MoE from scratch"
LONGER, NOISE = "dense, trained on with equal compute", "upcycled with noise"
EQUAL = "upcycled in halves, top 1, at the dense compute"
Curves = dict[Arm, Curve]


class Size(NamedTuple):
    base_steps: int
    num_steps: int
    rates: tuple[float, ...]
    seeds: int


FULL = Size(base_steps=1200, num_steps=600, rates=(2e-3, 4e-3, 8e-3), seeds=3)
QUICK = Size(base_steps=40, num_steps=20, rates=(4e-3,), seeds=1)


class Measured(NamedTuple):
    size: Size
    curves: Curves
    """Of all seeds, with the chosen learning rates."""
    grid: dict[str, dict[float, float]]
    """Kind of arm -> learning rate -> last loss of the first seed."""
    logits: float


def run(quick: bool) -> list[Result]:
    """Half a minute in quick mode, else about ten minutes on two cores."""
    return results(measure(QUICK if quick else FULL))


def measure(size: Size) -> Measured:
    kinds = _kinds(size)
    for seed in range(size.seeds):
        prepare(data_spec(seed), DENSE.vocab_size)
    with ProcessPoolExecutor(
        2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as processes:
        bases = list(processes.map(train_base, range(size.seeds), [size.base_steps] * size.seeds))
        curves = _train(processes, bases, [kind._replace(lr=lr) for kind in kinds for lr in size.rates])
        grid: dict[str, dict[float, float]] = {kind.name: {} for kind in kinds}
        for arm, curve in curves.items():
            grid[arm.name][arm.lr] = curve.losses[-1]
        best = [kind._replace(lr=min(grid[kind.name], key=grid[kind.name].__getitem__)) for kind in kinds]
        arms = [arm._replace(seed=seed) for seed in range(size.seeds) for arm in (*best, *_variants(*best))]
        curves |= _train(processes, bases, [arm for arm in arms if arm not in curves])
    logits = max(logit_difference(recipe, bases[0]) for recipe in (PLAIN, HALVES))
    return Measured(size, {arm: curves[arm] for arm in arms}, grid, logits)


def _kinds(size: Size) -> tuple[Arm, Arm, Arm]:
    """Those that choose their learning rate."""
    on = Arm(ON, size.base_steps, size.num_steps)
    upcycled = on._replace(name=UPCYCLED, recipe=PLAIN)
    return on, upcycled, upcycled._replace(name=SCRATCH, is_new=True)


def _variants(on: Arm, upcycled: Arm, _: Arm) -> tuple[Arm, Arm, Arm]:
    """Those that take the rate of what they vary."""
    return (
        on._replace(name=LONGER, num_steps=round(on.num_steps * MORE_COMPUTE)),
        upcycled._replace(name=NOISE, recipe=NOISY),
        upcycled._replace(name=EQUAL, recipe=HALVES),
    )


def _train(processes: Executor, bases: Sequence[Arrays], arms: list[Arm]) -> Curves:
    return dict(zip(arms, processes.map(train_arm, arms, [bases[arm.seed] for arm in arms]), strict=True))


def results(measured: Measured) -> list[Result]:
    last = {name: last_losses(measured, name) for name in (ON, UPCYCLED, EQUAL, NOISE, SCRATCH, LONGER)}
    gains = [before - after for before, after in zip(last[ON], last[UPCYCLED], strict=True)]
    peers = {name: mean(last[ON]) - mean(last[name]) for name in (EQUAL, NOISE, SCRATCH, LONGER)}
    similarity = mean_curve(measured, UPCYCLED, "similarity")
    return [
        Result("upcycle.gain", mean(gains), "nats", peers, _note(measured, gains)),
        Result(
            "upcycle.logits",
            measured.logits,
            "logits",
            {},
            "largest difference to the dense model at the start, fp32, granularities 1 and 2",
        ),
        Result(
            "upcycle.similarity_fall",
            similarity[0] - similarity[-1],
            "cosine",
            {},
            f"mean of layers and seeds after each tenth: {', '.join(f'{value:.3f}' for value in similarity)}",
        ),
    ]


def last_losses(measured: Measured, name: str) -> list[float]:
    return [curve.losses[-1] for arm, curve in measured.curves.items() if arm.name == name]


def mean_curve(measured: Measured, name: str, field: str) -> list[float]:
    """Over the seeds, at the start and after each tenth of the steps."""
    curves = [getattr(curve, field) for arm, curve in measured.curves.items() if arm.name == name]
    return [mean(values) for values in zip(*curves, strict=True)]


def _note(measured: Measured, gains: list[float]) -> str:
    size = measured.size
    tokens = BATCH * SEQ_LEN / 1e6
    rates = "; ".join(
        f"{name}: {', '.join(f'{lr:g} {loss:.4f}' for lr, loss in losses.items())}"
        for name, losses in measured.grid.items()
    )
    return (
        f"held-out loss of {ON}, {mean(last_losses(measured, ON)):.4f}, less that of upcycled, "
        f"{mean(last_losses(measured, UPCYCLED)):.4f}, by seed {', '.join(f'{gain:.4f}' for gain in gains)}; "
        f"{size.num_steps * tokens:.2g}M tokens after {size.base_steps * tokens:.2g}M of the dense model; "
        f"{count_params(DENSE)} parameters become {count_params(moe_spec(DENSE, PLAIN))}, top "
        f"{PLAIN.top_k} of {PLAIN.copies}, {MORE_COMPUTE:.2f} times the compute for a token; "
        f"learning rates by the first seed: {rates}"
    )
