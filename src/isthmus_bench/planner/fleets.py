"""Random small fleets and models, small enough to try every plan."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isthmus.planner.split import SplitProblem

Floats = NDArray[np.float64]
TOKENS = 8192
"""Of a micro-batch."""


class Type(NamedTuple):
    """A kind of chip."""

    flops: float
    """FLOP/s that it reaches."""
    link: float
    """Bytes/s."""
    memory: float
    """Bytes."""


class Fleet(NamedTuple):
    types: list[int]
    """Type of the chips of each stage, in no order yet."""
    costs_KTB: Floats
    """Forward, backward, recompute (µs), state, activation, checkpoint (MiB) of each type and block."""
    fixed_T: Floats
    limit_T: Floats
    send_T: Floats
    micro_batches: int

    def problem(self, order: Sequence[int]) -> SplitProblem:
        """`order`: the type of each stage."""
        rows = list(order)
        names = ("forward_SB", "backward_SB", "recompute_SB", "state_SB", "activation_SB", "checkpoint_SB")
        return SplitProblem(
            **{name: costs_TB[rows] for name, costs_TB in zip(names, self.costs_KTB, strict=True)},
            fixed_S=self.fixed_T[rows],
            limit_S=self.limit_T[rows],
            send_S=self.send_T[rows],
            micro_batches=self.micro_batches,
        )


def draw(seed: int) -> Fleet:
    """At most 12 layers, dense or MoE with expert parallelism, on at most 5 stages of 3 types of chips.

    All costs are whole numbers, so that sums do not depend on their order.
    """
    dice = random.Random(seed)
    types = [_type(dice) for _ in range(3)]
    stages = dice.randint(1, 5)
    layers = dice.randint(max(2, stages), 12)
    hidden = dice.choice([1024, 2048, 4096])
    costs_KTB = np.array([_costs(each, layers, hidden, random.Random(seed)) for each in types])
    return Fleet(
        types=[dice.randrange(3) for _ in range(stages)],
        costs_KTB=np.ceil(costs_KTB.transpose(1, 0, 2)),
        fixed_T=np.array([float(dice.randint(500, 2000)) for _ in types]),
        limit_T=np.floor([0.92 * each.memory / 2**20 for each in types]),
        send_T=np.ceil([4e6 * TOKENS * hidden / each.link for each in types]),
        micro_batches=dice.choice([1, 2, 4, 8, 16, 64]),
    )


def _type(dice: random.Random) -> Type:
    return Type(
        flops=dice.uniform(0.4, 4.0) * 1e14,
        link=dice.uniform(5.0, 100.0) * 1e9,
        memory=dice.uniform(4.0, 24.0) * 2**30,
    )


def _costs(chip: Type, layers: int, hidden: int, dice: random.Random) -> Floats:
    """[6, B] of one type; the model's shape comes from `dice`."""
    ep, experts, top_k = dice.choice([1, 2, 4, 8]), 8, dice.choice([1, 2])
    moe = [dice.random() < 0.5 for _ in range(layers)]
    vocabulary = dice.choice([32_000, 128_000])
    columns = [_block(chip, vocabulary * hidden, 0.0, TOKENS * hidden * 2.0)]
    for is_moe in moe:
        attention, expert = 4.0 * hidden * hidden, 3.0 * hidden * dice.choice([2, 3, 4]) * hidden
        held = attention + expert * (experts / ep if is_moe else 1)
        flops = 2.0 * TOKENS * (attention + expert * (top_k if is_moe else 1))
        exchanged = 4.0 * TOKENS * hidden * top_k * (ep - 1) / ep if is_moe else 0.0
        kept = TOKENS * hidden * dice.uniform(16.0, 34.0) * (1 + is_moe * (top_k - 1) / 2)
        column = _block(chip, held, flops, kept)
        exchange_us = 1e6 * exchanged / chip.link
        column += np.array([exchange_us, exchange_us, exchange_us, 0, 0, 0])
        columns.append(column)
    columns.append(_block(chip, vocabulary * hidden, 2.0 * TOKENS * vocabulary * hidden, TOKENS * 8.0))
    return np.array(columns).T


def _block(chip: Type, parameters: float, flops: float, kept: float) -> Floats:
    """6 bytes of state a parameter (ZeRO 1, many replicas); a checkpoint is an eighth of what is kept."""
    forward_us = 1e6 * flops / chip.flops
    return np.array(
        [forward_us, 2 * forward_us, forward_us, 6 * parameters / 2**20, kept / 2**20, kept / 2**23]
    )
