"""The loops of `schedule`. Operations are (kind, chunk, micro-batch); `ops` i32[S, N, 3] in stage order."""

import numpy as np

from isthmus.jit import jit

FORWARD, BACKWARD, WEIGHT = 0, 1, 2
ONE_F_ONE_B, INTERLEAVED, ZERO_BUBBLE = 0, 1, 2


@jit
def _visit(k, S, V, m):
    """(chunk, micro-batch) of the k-th forward of a stage: groups of S micro-batches, chunk after chunk."""
    group = k // (S * V)
    size = min(S, m - group * S)
    rest = k - group * S * V
    return rest // size, group * S + rest % size


@jit
def _put(row_N3, n, kind, visit, V):
    row_N3[n, 0] = kind
    row_N3[n, 1] = V - 1 - visit[0] if kind == BACKWARD else visit[0]
    row_N3[n, 2] = visit[1]
    return n + 1


@jit
def _one_f_one_b(row_N3, warm_up, S, V, m):
    """`warm_up` forwards, then forward and backward in turn, then the other backwards."""
    total = V * m
    n = 0
    for k in range(warm_up):
        n = _put(row_N3, n, FORWARD, _visit(k, S, V, m), V)
    for k in range(total):
        if k + warm_up < total:
            n = _put(row_N3, n, FORWARD, _visit(k + warm_up, S, V, m), V)
        n = _put(row_N3, n, BACKWARD, _visit(k, S, V, m), V)


@jit
def _zero_bubble(row_N3, s, S, m):
    """As 1F1B; the weights' gradient of micro-batch k comes after the backward of k + s."""
    warm_up = min(m, S - 1 - s)
    n = 0
    for k in range(warm_up):
        n = _put(row_N3, n, FORWARD, (0, k), 1)
    for k in range(m):
        if k + warm_up < m:
            n = _put(row_N3, n, FORWARD, (0, k + warm_up), 1)
        n = _put(row_N3, n, BACKWARD, (0, k), 1)
        if k >= s:
            n = _put(row_N3, n, WEIGHT, (0, k - s), 1)
    for k in range(max(0, m - s), m):
        n = _put(row_N3, n, WEIGHT, (0, k), 1)


@jit
def orders(schedule, S, V, m):
    """What each stage runs, in order: i32[S, N, 3] with N = 2 V m, zero-bubble 3 m."""
    ops = np.zeros((S, (3 if schedule == ZERO_BUBBLE else 2) * V * m, 3), np.int32)
    for s in range(S):
        if schedule == ZERO_BUBBLE:
            _zero_bubble(ops[s], s, S, m)
        elif V == 1:
            _one_f_one_b(ops[s], min(m, S - 1 - s), S, V, m)
        else:
            _one_f_one_b(ops[s], min(V * m, 2 * (S - 1 - s) + (V - 1) * S), S, V, m)
    return ops


@jit
def _arrive(end, s, to, line_KS, free):
    """When a message that is ready at `end` on stage s is at its neighbour; `free` is the line's next moment.

    Line s joins stage s and the next one; a backward message goes from `s` to the stage before it.
    """
    S = line_KS.shape[1]
    if S == 1:
        return end
    line = s if to > 0 else (s - 1) % S
    free[line] = max(free[line], end) + line_KS[0, line]
    return free[line] + line_KS[1, line]


@jit
def _pass_on(op, end, s, ready, lines):
    """Tell the operation that waits for `op` when its input is there. Chunk c of stage s is link c S + s."""
    (forward, backward), (line_KS, free_KS) = ready, lines
    S, last = line_KS.shape[1], forward.shape[0] - 1
    at, batch = op[1] * S + s, op[2]
    if op[0] == FORWARD and at < last:
        forward[at + 1, batch] = _arrive(end, s, 1, line_KS, free_KS[0])
    elif op[0] == FORWARD:
        backward[at, batch] = end
    elif op[0] == BACKWARD and at > 0:
        backward[at - 1, batch] = _arrive(end, s, -1, line_KS, free_KS[1])


@jit
def run(ops, seconds_KSV, line_KS):
    """-> (start f64[S, N], makespan). A makespan of -1: the orders wait for each other.

    `line_KS`: seconds of sending, of travelling. Stages are visited in turn, each as far as its inputs are
    known; NaN marks an input that is not.
    """
    S, N, _ = ops.shape
    V = seconds_KSV.shape[2]
    m = 1
    for n in range(N):
        m = max(m, ops[0, n, 2] + 1)
    forward, backward = np.full((S * V, m), np.nan), np.full((S * V, m), np.nan)
    forward[0, :] = 0.0
    start, free, done = np.zeros((S, N)), np.zeros(S), np.zeros(S, np.int64)
    line_free = np.zeros((2, S))
    left, moved = S * N, True
    while left and moved:
        moved = False
        for s in range(S):
            while done[s] < N:
                op = ops[s, done[s]]
                at = op[1] * S + s
                if op[0] == WEIGHT:
                    known = 0.0
                else:
                    known = forward[at, op[2]] if op[0] == FORWARD else backward[at, op[2]]
                if np.isnan(known):
                    break
                start[s, done[s]] = max(free[s], known)
                free[s] = start[s, done[s]] + seconds_KSV[op[0], s, op[1]]
                _pass_on(op, free[s], s, (forward, backward), (line_KS, line_free))
                done[s] += 1
                left -= 1
                moved = True
    return start, (-1.0 if left else free.max())


@jit
def most_in_flight(ops):
    """Most chunks of micro-batches between forward and their last use of activations, i64[S]."""
    S, N, _ = ops.shape
    last = BACKWARD
    for n in range(N):
        if ops[0, n, 0] == WEIGHT:
            last = WEIGHT
    most = np.zeros(S, np.int64)
    for s in range(S):
        held = 0
        for n in range(N):
            if ops[s, n, 0] == FORWARD:
                held += 1
                most[s] = max(most[s], held)
            elif ops[s, n, 0] == last:
                held -= 1
    return most
