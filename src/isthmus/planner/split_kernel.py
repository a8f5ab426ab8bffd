"""The loops of `split`. Its docstring has the problem, the method and the proof.

Names: S stages, L layers (blocks 1..L; block 0 is the embedding, block L + 1 the head), W = L - S. Stage s
holds the layers a <= i < b. Every stage has a layer, so x = a - s and y = b - s - 1 are in 0..W, x <= y, and
y of a stage is x of the next. A longer range takes more bytes, so at least as many recomputed layers and at
least as long: where a range is too large or too slow, so is every longer one, and a row of ranges from one
x is left there.
"""

import numpy as np

from isthmus.jit import jit

NONE, AUTO, FULL = 0, 1, 2
_HALVINGS = 6
"""More of them find a better first cut, but the rounds that this saves cost less."""
_ABOVE = 1 + 1e-12
"""Bounds are rounded up, so that rounding excludes no cut."""


@jit
def sums_of(cost_KSB, stage_KS):
    """Running sums [4, S, B + 1]: seconds, seconds of recompute, bytes, bytes that recompute saves.

    `cost_KSB`: forward, backward, recompute, state, activation, checkpoint. `stage_KS`: fixed, limit, send,
    in flight, working. The second value is False where a cost is negative, NaN or infinite.
    """
    _, S, B = cost_KSB.shape
    sums = np.zeros((4, S, B + 1), np.float64)
    total, least = 0.0, 0.0
    for s in range(S):
        flying = stage_KS[3, s]
        total += stage_KS[0, s] + stage_KS[2, s] + flying + stage_KS[4, s]
        least = min(least, stage_KS[0, s], stage_KS[2, s], flying, stage_KS[4, s])
        for i in range(B):
            for k in range(6):
                total += cost_KSB[k, s, i]
                least = min(least, cost_KSB[k, s, i])
            active, kept = cost_KSB[4, s, i], cost_KSB[5, s, i]
            sums[0, s, i + 1] = sums[0, s, i] + cost_KSB[0, s, i] + cost_KSB[1, s, i]
            sums[1, s, i + 1] = sums[1, s, i] + cost_KSB[2, s, i]
            sums[2, s, i + 1] = sums[2, s, i] + cost_KSB[3, s, i] + flying * active
            sums[3, s, i + 1] = sums[3, s, i] + flying * (active - kept)
    return sums, least >= 0.0 and np.isfinite(total)


@jit
def _saved(sums, stage_KS, s, a, k):
    """Bytes that the first k layers from a on save when they are recomputed; the first may cost some."""
    return sums[3, s, a + 1 + k] - sums[3, s, a + 1] - (stage_KS[4, s] if k > 0 else 0.0)


@jit
def weigh(sums, stage_KS, mode, stage, least):
    """Stage (s, a, b) with at least `least` recomputed layers -> (their number, seconds, bytes).

    The number is the smallest that fits, -1 if none does.
    """
    s, a, b = stage
    S, B = sums.shape[1], sums.shape[2] - 1
    first = 0 if s == 0 else a + 1
    end = B if s == S - 1 else b + 1
    size = sums[2, s, end] - sums[2, s, first]
    need = size - (stage_KS[1, s] - stage_KS[0, s])
    k = b - a if mode == FULL else least
    most = 0 if mode == NONE else b - a
    while k < most and _saved(sums, stage_KS, s, a, k) < need:
        k += 1
    saved = _saved(sums, stage_KS, s, a, k)
    again = sums[1, s, a + 1 + k] - sums[1, s, a + 1]
    seconds = sums[0, s, end] - sums[0, s, first] + again + stage_KS[2, s]
    return (k if saved >= need else -1), seconds, stage_KS[0, s] + size - saved


@jit
def _keep(tried, ends):
    for s in range(ends.size):
        ends[s] = tried[s]


@jit
def _step(share, rest, found):
    """T of a cut with this (sum, max) of its seconds; infinite where there is none, also if `rest` is 0."""
    return share * found[0] + rest * found[1] if found[0] < np.inf else np.inf


@jit
def _fill(sums, stage_KS, mode, cap, ends):
    """Each stage in turn takes as many layers as fit within `cap` seconds -> (sum, max) of the seconds."""
    S, L = sums.shape[1], sums.shape[2] - 3
    total, top, a = 0.0, 0.0, 0
    for s in range(S):
        b = L if s == S - 1 else a + 1
        k, seconds, _ = weigh(sums, stage_KS, mode, (s, a, b), 0)
        if k < 0 or seconds > cap:
            return np.inf, np.inf
        while b < L - (S - 1 - s):
            k, longer, _ = weigh(sums, stage_KS, mode, (s, a, b + 1), k)
            if k < 0 or longer > cap:
                break
            b += 1
            seconds = longer
        ends[s] = b
        a = b
        total += seconds
        top = max(top, seconds)
    return total, top


@jit
def _some_cut(sums, stage_KS, mode, weights, ends):
    """T of a cut that is good already, found by halving the cap; infinite if this finds none."""
    share, rest, low = weights
    tried = np.zeros(ends.size, np.int64)
    found = _fill(sums, stage_KS, mode, np.inf, ends)
    best, high = _step(share, rest, found), found[1]
    for _ in range(_HALVINGS if best < np.inf else 0):
        middle = (low + high) / 2
        found = _fill(sums, stage_KS, mode, middle, tried)
        if found[1] == np.inf:
            low = middle
            continue
        high = found[1]
        if _step(share, rest, found) < best:
            best = _step(share, rest, found)
            _keep(tried, ends)
    return best


@jit
def _longest(sums, stage_KS, mode, cap):
    """Most layers on a stage, the last one apart, that fit within `cap` seconds."""
    S, L = sums.shape[1], sums.shape[2] - 3
    most = 1
    for s in range(S - 1):
        b = s
        for a in range(s, s + 1 if s == 0 else L - S + s + 1):
            b = max(b, a)
            while b < L - S + s + 1:
                k, seconds, _ = weigh(sums, stage_KS, mode, (s, a, b + 1), 0)
                if k < 0 or seconds >= cap:
                    break
                b += 1
            most = max(most, b - a)
    return most


@jit
def _times(sums, stage_KS, mode, cap):
    """Seconds of each stage's ranges, infinite from the first that does not fit or reaches the cap.

    [S, W + 1, N]: entry [s, x, n] has n + 1 layers. On the last stage entry [s, x, 0] has all layers left.
    """
    S, L = sums.shape[1], sums.shape[2] - 3
    W = L - S
    times = np.full((S, W + 1, _longest(sums, stage_KS, mode, cap)), np.inf)
    for s in range(S):
        for x in range(1 if s == 0 else W + 1):
            k = 0
            for n in range(1 if s == S - 1 else min(W + 1 - x, times.shape[2])):
                b = L if s == S - 1 else s + x + n + 1
                k, seconds, _ = weigh(sums, stage_KS, mode, (s, s + x, b), k)
                if k < 0 or seconds >= cap:
                    break
                times[s, x, n] = seconds
    return times


@jit
def _least_top(times):
    """Least possible maximum of the stages' seconds; infinite if `times` has no cut."""
    S, width, N = times.shape
    best = np.full(width, np.inf)
    best[0] = 0.0
    for s in range(S):
        after = np.full(width, np.inf)
        for x in range(width):
            for n in range(min(N, width - x) if best[x] < np.inf else 0):
                if times[s, x, n] == np.inf:
                    break
                y = width - 1 if s == S - 1 else x + n
                after[y] = min(after[y], max(best[x], times[s, x, n]))
        best = after
    return best[width - 1]


@jit
def _least_sum(times, cap, ends):
    """Least sum of the stages' seconds where each is below `cap`; its layers go to `ends`.

    Returns (sum, largest of them), infinite if there is no such cut.
    """
    S, width, N = times.shape
    best = np.full((S + 1, width), np.inf)
    best[0, 0] = 0.0
    start = np.zeros((S, width), np.int64)
    for s in range(S):
        for x in range(width):
            for n in range(min(N, width - x) if best[s, x] < np.inf else 0):
                if times[s, x, n] >= cap:
                    break
                y = width - 1 if s == S - 1 else x + n
                if best[s, x] + times[s, x, n] < best[s + 1, y]:
                    best[s + 1, y] = best[s, x] + times[s, x, n]
                    start[s, y] = x
    y = width - 1
    if best[S, y] == np.inf:
        return np.inf, np.inf
    top = 0.0
    for s in range(S - 1, -1, -1):
        ends[s] = s + 1 + y
        x = start[s, y]
        top = max(top, times[s, x, 0 if s == S - 1 else y - x])
        y = x
    return best[S, width - 1], top


@jit
def _fewest_seconds(sums):
    """Sum over the blocks of the fewest seconds that any stage takes: no cut has a smaller sum."""
    least = 0.0
    for i in range(sums.shape[2] - 1):
        fewest = np.inf
        for s in range(sums.shape[1]):
            fewest = min(fewest, sums[0, s, i + 1] - sums[0, s, i])
        least += fewest
    return least * (2 - _ABOVE)


@jit
def cut(sums, stage_KS, mode, share, micro_batches):
    """Ends [S] that make share * sum + (micro_batches - share) * max least, and that least; inf if none."""
    S = sums.shape[1]
    ends, tried = np.zeros(S, np.int64), np.zeros(S, np.int64)
    rest, total = micro_batches - share, _fewest_seconds(sums)
    best = _some_cut(sums, stage_KS, mode, (share, rest, total / S), ends)
    cap = (best - share * total) / rest * _ABOVE if rest > 0.0 else np.inf
    times = _times(sums, stage_KS, mode, cap)
    floor = _least_top(times)
    if floor == np.inf:
        return best, ends
    found = _least_sum(times, np.nextafter(floor, np.inf), tried)
    while True:
        if _step(share, rest, found) < best:
            best = _step(share, rest, found)
            _keep(tried, ends)
        found = _least_sum(times, cap, tried)
        if not _step(share, rest, (found[0], floor)) < best:
            return best, ends
        cap = min(found[1], (best - share * found[0]) / rest * _ABOVE)


@jit
def describe(sums, stage_KS, mode, ends):
    """Each stage of a cut -> (fits, recomputed layers i64[S], seconds f64[S], bytes f64[S])."""
    S = ends.size
    again, seconds, size = np.zeros(S, np.int64), np.zeros(S), np.zeros(S)
    fits, a = True, 0
    for s in range(S):
        again[s], seconds[s], size[s] = weigh(sums, stage_KS, mode, (s, a, ends[s]), 0)
        fits &= again[s] >= 0
        a = ends[s]
    return fits, again, seconds, size


@jit
def solve(cost_KSB, stage_KS, mode, share, micro_batches):
    """-> (step seconds, ends, recomputed, seconds, bytes); inf: nothing fits, NaN: a cost is no cost."""
    sums, sound = sums_of(cost_KSB, stage_KS)
    best, ends = cut(sums, stage_KS, mode, share, micro_batches) if sound else (np.nan, np.zeros(0, np.int64))
    _, again, seconds, size = describe(sums, stage_KS, mode, ends)
    return best, ends, again, seconds, size


@jit
def _least_excess(sums, stage_KS, mode, stage):
    """Bytes of stage (s, a, b) above its limit, with as much recompute as helps; negative: room to spare."""
    s, a, b = stage
    S, B = sums.shape[1], sums.shape[2] - 1
    saved = _saved(sums, stage_KS, s, a, b - a) if mode == FULL else 0.0
    for k in range(0 if mode != AUTO else b - a):
        saved = max(saved, _saved(sums, stage_KS, s, a, k + 1))
    size = sums[2, s, b + 1] - sums[2, s, 0 if s == 0 else a + 1]
    head = sums[2, s, B] - sums[2, s, B - 1] if s == S - 1 else 0.0
    return size + head - (stage_KS[1, s] - stage_KS[0, s]) - saved


@jit
def missing(cost_KSB, stage_KS, mode):
    """Bytes that each chip would need more if the model had its first S, S + 1, ... L layers: f64[W + 1]."""
    sums, _ = sums_of(cost_KSB, stage_KS)
    S, W = sums.shape[1], sums.shape[2] - 3 - sums.shape[1]
    best = np.full(W + 1, np.inf)
    best[0] = -np.inf
    for s in range(S):
        after = np.full(W + 1, np.inf)
        for x in range(1 if s == 0 else W + 1):
            for y in range(x, W + 1):
                excess = _least_excess(sums, stage_KS, mode, (s, s + x, s + 1 + y))
                after[y] = min(after[y], max(best[x], excess))
        best = after
    return best
