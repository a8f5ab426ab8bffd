"""outer.loss_gap: what training apart costs in held-out loss, at equal tokens.

One process runs all sites of an arm (see `federation`), so an arm is fast and its result repeats exactly.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import mean
from typing import NamedTuple

import msgspec
import torch

from isthmus.data.dataset import open_prepared, prepare
from isthmus.spec.count import count_params
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import DataSpec, OuterSpec, RunSpec, TrainSpec
from isthmus_bench.document import Result
from isthmus_bench.outer.federation import Plan, train_federated, train_together, with_rate

HELD_OUT = 512
INNER_STEPS = 50
DELAY = 3
"""Steps from a push to taking up its result, as on the link of the other rows."""
BATCH = 16
"""Sequences of a site's step where there are two sites."""
OUTER = (1.0, 0.5)
"""Learning rate and momentum: the best of six tried with the first seed at 1,500 steps, on the held-out text
that is reported. Synchronous training has no such choice. The defaults are printed beside."""
DEFAULTS = (OuterSpec().lr, OuterSpec().momentum)


class Arm(NamedTuple):
    """One training run: `kind` is 'sync', or the codec up."""

    kind: str
    num_sites: int
    lr: float
    seed: int
    num_steps: int
    outer: tuple[float, float] = OUTER


class Size(NamedTuple):
    num_steps: int
    rates: tuple[float, ...]
    seeds: int


FULL = Size(num_steps=3000, rates=(4e-3, 8e-3, 16e-3, 32e-3), seeds=3)
QUICK = Size(num_steps=200, rates=(8e-3, 16e-3), seeds=1)


def run(quick: bool) -> list[Result]:
    """Half a minute in quick mode, a quarter of an hour otherwise. The rates are chosen by the first seed."""
    size = QUICK if quick else FULL
    base = spec("int8", OUTER)
    prepare(base.data, base.model.vocab_size)
    grid = [Arm(kind, 2, lr, 0, size.num_steps) for kind in ("sync", "int8") for lr in size.rates]
    with ProcessPoolExecutor(
        2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as processes:
        losses = dict(zip(grid, processes.map(held_out_loss, grid), strict=True))
        best = {kind: best_rate(losses, kind) for kind in ("sync", "int8")}
        chosen = [
            *_seeds(size, "sync", 2, best["sync"]),
            *_seeds(size, "int8", 2, best["int8"]),
            *_seeds(size, "int4", 2, best["int8"]),
            *_seeds(size, "int8", 1, best["int8"]),
            *_seeds(size, "int8", 2, best["int8"], DEFAULTS),
        ]
        left = [arm for arm in chosen if arm not in losses]
        losses |= zip(left, processes.map(held_out_loss, left), strict=True)
    return [_result(losses, best, size)]


def _seeds(size: Size, kind: str, num_sites: int, lr: float, outer: tuple[float, float] = OUTER) -> list[Arm]:
    return [Arm(kind, num_sites, lr, seed, size.num_steps, outer) for seed in range(size.seeds)]


def _result(losses: dict[Arm, float], best: dict[str, float], size: Size) -> Result:
    sync = mean_loss(losses, "sync", 2, best["sync"])
    ours = mean_loss(losses, "int8", 2, best["int8"])
    peers = {
        "int4, 2 sites": mean_loss(losses, "int4", 2, best["int8"]),
        "int8, M = 1": mean_loss(losses, "int8", 1, best["int8"]),
        f"int8, 2 sites, outer lr {DEFAULTS[0]:g} and momentum {DEFAULTS[1]:g}": mean_loss(
            losses, "int8", 2, best["int8"], DEFAULTS
        ),
    }
    run = spec("int8", OUTER)
    tokens = 2 * BATCH * run.data.seq_len * size.num_steps
    note = (
        f"(loss - sync) / sync on held-out text: sync {sync:.4f}, 2 sites {ours:.4f} nats, mean of "
        f"{size.seeds} seed(s); {count_params(run.model)} parameters, {tokens / 1e6:.1f}M tokens, "
        f"H = {INNER_STEPS}, taken up {DELAY} steps after the push, outer lr {OUTER[0]:g} and momentum "
        f"{OUTER[1]:g}; lr of the grid {', '.join(f'{lr:g}' for lr in size.rates)}, by the first seed: sync "
        f"{best['sync']:g}, "
        f"sites {best['int8']:g}; all sites of an arm in one process"
    )
    shown = {name: gap(loss, sync) for name, loss in peers.items()}
    return Result("outer.loss_gap", gap(ours, sync), "ratio", shown, note)


def gap(loss: float, reference: float) -> float:
    return (loss - reference) / reference


def mean_loss(
    losses: dict[Arm, float], kind: str, num_sites: int, lr: float, outer: tuple[float, float] = OUTER
) -> float:
    chosen = (kind, num_sites, lr, outer)
    return mean(loss for arm, loss in losses.items() if (*arm[:3], arm.outer) == chosen)


def best_rate(losses: dict[Arm, float], kind: str) -> float:
    """The one with the lowest loss."""
    return min((arm for arm in losses if arm.kind == kind), key=losses.__getitem__).lr


def held_out_loss(arm: Arm) -> float:
    """Trains the arm; nats per token of the final weights on held-out text."""
    run = with_rate(spec(arm.kind, arm.outer), arm.lr, arm.seed)
    run = msgspec.structs.replace(run, data=msgspec.structs.replace(run.data, seed=arm.seed))
    dataset = open_prepared(run.data, run.model.vocab_size)
    plan = Plan(arm.num_sites, 2 * BATCH // arm.num_sites, arm.num_steps, DELAY)
    train = train_together if arm.kind == "sync" else train_federated
    return train(run, dataset, plan).evaluate(dataset.held_out(HELD_OUT))


def spec(kind: str, outer: tuple[float, float]) -> RunSpec:
    """The run of an arm, but for learning rate and seed."""
    facts = {"codec": "int8" if kind == "sync" else kind, "down_codec": "int8"}
    facts |= {"lr": outer[0], "momentum": outer[1]}
    return RunSpec(
        model=ModelSpec(
            vocab_size=320,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            ffn_size=96,
        ),
        data=DataSpec(seq_len=64),
        train=TrainSpec(batch_size=BATCH),
        outer=msgspec.convert({"inner_steps": INNER_STEPS, **facts}, OuterSpec),
    )
