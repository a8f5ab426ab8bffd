"""outer.loss_gap: what training apart costs in held-out loss, at equal tokens.

One process runs all sites of an arm (see `federation`), so an arm is fast and its result repeats exactly.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import mean
from typing import NamedTuple

import msgspec
import torch

from isthmus.data.dataset import open_prepared, prepare
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import DataSpec, OuterSpec, RunSpec, TrainSpec
from isthmus_bench.document import Result
from isthmus_bench.outer.federation import Plan, train_federated, train_together, with_rate

HELD_OUT = 256
INNER_STEPS = 50
BATCH = 8
"""Sequences of a site's step where there are two sites."""


class Arm(NamedTuple):
    """One training run: `kind` is 'sync', or the codec both ways."""

    kind: str
    num_sites: int
    lr: float
    seed: int
    num_steps: int


class Size(NamedTuple):
    num_steps: int
    rates: tuple[float, ...]
    seeds: int


FULL = Size(num_steps=1000, rates=(2e-3, 4e-3, 8e-3), seeds=3)
QUICK = Size(num_steps=200, rates=(4e-3, 8e-3), seeds=1)


def run(quick: bool) -> list[Result]:
    """Seconds in quick mode, minutes otherwise."""
    size = QUICK if quick else FULL
    base = spec("int8")
    prepare(base.data, base.model.vocab_size)
    seeds = range(size.seeds)
    grid = [Arm(kind, 2, lr, seed, size.num_steps)
            for kind in ("sync", "int8") for lr in size.rates for seed in seeds]  # fmt: skip
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=torch.set_num_threads,
                             initargs=(1,)) as processes:  # fmt: skip
        losses = dict(zip(grid, processes.map(held_out_loss, grid), strict=True))
        best = {kind: best_rate(losses, kind) for kind in ("sync", "int8")}
        beside = [Arm(kind, sites, best["int8"], seed, size.num_steps)
                  for kind, sites in (("int4", 2), ("int8", 1)) for seed in seeds]  # fmt: skip
        losses |= zip(beside, processes.map(held_out_loss, beside), strict=True)
    return [_result(losses, best, size)]


def _result(losses: dict[Arm, float], best: dict[str, float], size: Size) -> Result:
    sync = mean_loss(losses, "sync", 2, best["sync"])
    ours = mean_loss(losses, "int8", 2, best["int8"])
    int4 = mean_loss(losses, "int4", 2, best["int8"])
    alone = mean_loss(losses, "int8", 1, best["int8"])
    tokens = 2 * BATCH * spec("int8").data.seq_len * size.num_steps
    return Result(
        "outer.loss_gap",
        gap(ours, sync),
        "ratio",
        {"int4, 2 sites": gap(int4, sync), "int8, M = 1": gap(alone, sync)},
        f"(loss - sync) / sync; sync {sync:.4f}, 2 sites {ours:.4f} nats (mean of {size.seeds} seeds), "
        f"H = {INNER_STEPS}, taken up {_delay()} steps after the push, {tokens / 1e6:.1f}M tokens; lr of the "
        f"grid {', '.join(f'{lr:g}' for lr in size.rates)}: sync {best['sync']:g}, sites {best['int8']:g}; "
        "all sites of an arm in one process",
    )


def gap(loss: float, reference: float) -> float:
    return (loss - reference) / reference


def mean_loss(losses: dict[Arm, float], kind: str, num_sites: int, lr: float) -> float:
    return mean(loss for arm, loss in losses.items() if arm[:3] == (kind, num_sites, lr))


def best_rate(losses: dict[Arm, float], kind: str) -> float:
    """The one with the lowest mean loss over the seeds."""
    score: Callable[[float], float] = lambda lr: mean_loss(losses, kind, 2, lr)  # noqa: E731
    return min({arm.lr for arm in losses if arm.kind == kind}, key=score)


def held_out_loss(arm: Arm) -> float:
    """Trains the arm; nats per token of the final weights on held-out text."""
    run = with_rate(spec(arm.kind), arm.lr, arm.seed)
    run = msgspec.structs.replace(run, data=msgspec.structs.replace(run.data, seed=arm.seed))
    dataset = open_prepared(run.data, run.model.vocab_size)
    plan = Plan(arm.num_sites, 2 * BATCH // arm.num_sites, arm.num_steps, _delay())
    train = train_together if arm.kind == "sync" else train_federated
    return train(run, dataset, plan).evaluate(dataset.held_out(HELD_OUT))


def _delay() -> int:
    return INNER_STEPS // 10


def spec(kind: str) -> RunSpec:
    """The run of an arm, but for learning rate and seed."""
    model = ModelSpec(
        vocab_size=1024, hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=2, ffn_size=192
    )
    codec = "int8" if kind == "sync" else kind
    return RunSpec(
        model=model,
        data=DataSpec(seq_len=64),
        train=TrainSpec(batch_size=BATCH),
        outer=msgspec.convert({"inner_steps": INNER_STEPS, "codec": codec, "down_codec": "int8"}, OuterSpec),
    )
