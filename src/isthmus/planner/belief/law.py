"""Logarithm of a step's seconds as a function of the factors' logarithms, and its derivatives.

The same law as `cost.step.step_time`, over many runs at once:

    step = (sum_k f_k c_k + f_bubble sum_k f_k b_k + exposed + f_gather g + f_optimizer o + f_overhead STEP_S)
           x (1 + f_jitter JITTER log2 nodes),      exposed = ((w C)^p + M^p)^(1/p) - w C

with c, b, g, o ideal seconds, C = sum_k f_k c_k, M = f_sync times the ideal exchange, w the window.
"""

import numpy as np

from isthmus.planner.belief.query import IN_STAGE, Design
from isthmus.planner.cost.ideal import JITTER, STEP_S
from isthmus.planner.cost.step import OVERLAP
from isthmus.planner.cost.table import Floats


def step_log(theta: Floats, runs: Design) -> tuple[Floats, Floats]:
    """(log seconds [query], derivative [query, factor])"""
    factors = np.exp(theta)
    inside, (bubble, sync, gather, optimizer, overhead, jitter) = factors[:IN_STAGE], factors[IN_STAGE:]
    compute, idle = runs.compute * inside, runs.bubble * inside
    window, exchange = compute.sum(axis=1) * runs.window, sync * runs.sync
    both = (window**OVERLAP + exchange**OVERLAP) ** (1 / OVERLAP)
    by_window = (window / both) ** (OVERLAP - 1) - 1
    by_exchange = (exchange / both) ** (OVERLAP - 1)
    parts = np.stack(
        [
            bubble * idle.sum(axis=1),
            by_exchange * exchange,
            gather * runs.gather,
            optimizer * runs.optimizer,
            np.full(runs.size, overhead * STEP_S),
        ],
        axis=1,
    )
    known = compute.sum(axis=1) + parts.sum(axis=1) - parts[:, 1] + (both - window)
    waiting = jitter * JITTER * runs.doublings
    within = compute * (1 + by_window * runs.window)[:, None] + bubble * idle
    slope = np.concatenate([within, parts], axis=1) / known[:, None]
    return (
        np.log(known * (1 + waiting)),
        np.concatenate([slope, (waiting / (1 + waiting))[:, None]], axis=1),
    )
