"""One contender in a process of its own: for each line {"seed": ...} on stdin it does one turn and answers
with the seconds it took. Run by its path, by an interpreter that may have torch and one peer only.

How fast the memory-bound parts are depends on the process's allocator, so no two contenders share one.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import layers  # pyright: ignore[reportMissingImports]  # beside this file
import numpy as np
import steps  # pyright: ignore[reportMissingImports]
import torch

GPU_REPEATS = 20
Turn = Callable[[int], dict[str, float]]
"""Seed -> what was measured, seconds."""


class Dense:
    """The roofline: the six matrix products of one dense SwiGLU layer on as many rows, and nothing else: they
    write to memory that is there, so that they are alike whatever the allocator does.
    """

    def __init__(self, shape: layers.Shape, device: str):
        rows, D, F = shape.tokens * shape.top_k, shape.hidden, shape.ffn
        sizes = (rows, D), (2 * F, D), (D, F), (rows, 2 * F), (rows, F), (rows, D)
        with torch.device(device):
            x, gate_up, down, h, activation, grad = (torch.randn(size).bfloat16() for size in sizes)
        pairs = [
            (x, gate_up.t()), (activation, down.t()), (grad, down), (grad.t(), activation), (h, gate_up),
            (h.t(), x),
        ]  # fmt: skip
        self._products = [(left, right, left @ right) for left, right in pairs]

    def run(self) -> None:
        for left, right, out in self._products:
            torch.mm(left, right, out=out)


class Stopwatch:
    """CPU seconds of this thread alone, so that neighbours count for little; on a GPU those of the clock."""

    def __init__(self, device: str):
        self._gpu = device == "cuda"

    def __call__(self, call: Callable[[], Any]) -> float:
        if not self._gpu:
            start_s = time.process_time()
            call()
            return time.process_time() - start_s
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - start_s


def layer_turn(name: str, shape: layers.Shape, device: str) -> Turn:
    """Forward and backward on the seed's tokens, the roofline just before and after it."""
    module, call = layers.build(name, shape, device)
    dense, seconds = Dense(shape, device), Stopwatch(device)
    repeats = GPU_REPEATS if device == "cuda" else 1
    parameters = list(module.parameters())

    def run(inputs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for x, grad in inputs:
            call(x).backward(grad)
            for parameter in parameters:
                parameter.grad = None

    def turn(seed: int) -> dict[str, float]:
        inputs = [draw(repeats * seed + i, shape, device) for i in range(repeats)]
        before_s = seconds(lambda: [dense.run() for _ in inputs])
        layer_s = seconds(lambda: run(inputs))
        after_s = seconds(lambda: [dense.run() for _ in inputs])
        return {"s": layer_s / repeats, "dense_s": (before_s + after_s) / 2 / repeats}

    return turn


def draw(seed: int, shape: layers.Shape, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, gradient of the result)."""
    draws = torch.Generator().manual_seed(seed)
    x, grad = (torch.randn(shape.tokens, shape.hidden, generator=draws) for _ in range(2))
    return x.bfloat16().to(device).requires_grad_(), grad.bfloat16().to(device)


def router_turn(shape: layers.Shape, device: str) -> Turn:
    """Our whole layer, balanced as in training, and its router, balance loss and counts by themselves."""
    from isthmus.models.balance import Balance, gate_loss, observe
    from isthmus.spec.balance import BalanceSpec

    layer, _ = layers.isthmus(shape)
    layer, seconds = layer.to(device), Stopwatch(device)
    balance = Balance(BalanceSpec(), torch.ones(1, device=device))

    def route(x: torch.Tensor) -> None:
        choice = layer.router(x)  # pyright: ignore
        probs = layer.router.probs(choice)  # pyright: ignore
        routing = observe(choice, probs, balance.spec)
        loss = gate_loss(balance, 0, probs, choice.logits_NE, routing.load)
        (choice.weight_NK.sum() + loss).backward()

    def run(x: torch.Tensor, grad: torch.Tensor) -> None:
        output = layer(x[None], balance)
        torch.autograd.backward([output.y[0], output.loss], [grad, None])

    def turn(seed: int) -> dict[str, float]:
        x, grad = draw(seed, shape, device)
        router_s = seconds(lambda: route(x))
        layer_s = seconds(lambda: run(x, grad))
        layer.zero_grad()
        return {"s": layer_s, "router_s": router_s}

    return turn


def step_turn(name: str, device: str) -> Turn:
    step, seconds = steps.build(name, device), Stopwatch(device)

    def turn(seed: int) -> dict[str, float]:
        shape = (steps.BATCH, steps.SEQ_LEN + 1)
        tokens = np.random.default_rng(seed).integers(0, steps.VOCAB, shape, dtype=np.int32)
        return {"s": seconds(lambda: step(tokens))}

    return turn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("layer", "router", "step"))
    parser.add_argument("name")
    parser.add_argument("--shape", type=json.loads, default={})
    parser.add_argument("--keep-memory", action="store_true", help="the allocator set as in our ranks")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a peer may print
    torch.set_num_threads(1)
    if options.keep_memory:
        from isthmus.train.memory import keep_freed_memory

        keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.what == "step":
        turn = step_turn(options.name, device)
    elif options.what == "router":
        turn = router_turn(layers.Shape(**options.shape), device)
    else:
        turn = layer_turn(options.name, layers.Shape(**options.shape), device)
    for line in sys.stdin:
        print(json.dumps(turn(json.loads(line)["seed"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
