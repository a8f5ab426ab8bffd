"""Every plan of a small pipeline, one after the other. Shares no code with the planner's split."""

import numpy as np

from isthmus.jit import jit


@jit
def stage(costs, held, s, layers, again):
    """Stage s with layers (a, b), the first `again` recomputed -> (seconds, bytes). By definition.

    costs [6, S, B]: forward, backward, recompute, state, activation, checkpoint; held [3, S]: fixed bytes,
    limit, seconds of sending; micro-batches are the fourth row.
    """
    S, B = costs.shape[1], costs.shape[2]
    a, b = layers
    flying = min(held[3, s], S - s)
    seconds, size = held[2, s], held[0, s]
    for block in range(B):
        layer = block - 1
        mine = a <= layer < b
        if (block == 0 and s == 0) or (block == B - 1 and s == S - 1):
            mine = True
        elif block == 0 or block == B - 1:
            mine = False
        if not mine:
            continue
        redone = 0 < block < B - 1 and layer - a < again
        seconds += costs[0, s, block] + costs[1, s, block] + (costs[2, s, block] if redone else 0.0)
        size += costs[3, s, block] + flying * (costs[5, s, block] if redone else costs[4, s, block])
    return seconds, size


@jit
def step(costs, held, ends, again):
    """Seconds of a plan's step: sum over the stages + (m - 1) times the slowest; inf if it does not fit."""
    total, top, a = 0.0, 0.0, 0
    for s in range(ends.size):
        seconds, size = stage(costs, held, s, (a, ends[s]), again[s])
        if size > held[1, s]:
            return np.inf
        total += seconds
        top = max(top, seconds)
        a = ends[s]
    return total + (held[3, 0] - 1) * top


@jit
def _next(ends, again, layers):
    """The plan after this one; False after the last. Counts up `again` first, then the ends."""
    S = ends.size
    for s in range(S - 1, -1, -1):
        start = ends[s - 1] if s else 0
        if again[s] < ends[s] - start:
            again[s] += 1
            return True
        again[s] = 0
    for s in range(S - 2, -1, -1):
        if ends[s] < layers - (S - 1 - s):
            ends[s] += 1
            for after in range(s + 1, S - 1):
                ends[after] = ends[after - 1] + 1
            return True
    return False


@jit
def best_step(costs, held):
    """-> (least seconds over all cuts and all numbers of recomputed layers, how many plans there are)."""
    S, layers = costs.shape[1], costs.shape[2] - 2
    ends, again = np.arange(1, S + 1), np.zeros(S, np.int64)
    ends[S - 1] = layers
    best, count = np.inf, 0
    more = True
    while more:
        best = min(best, step(costs, held, ends, again))
        count += 1
        more = _next(ends, again, layers)
    return best, count
