"""Outer optimizer steps in one pass over memory, deterministic as `wire.kernels`. Vectors f32[n], in place.

`bounds` i64[num, 2] are the stretches to touch; nothing outside them changes.
"""

import numpy as np

from isthmus.jit import jit


@jit
def nesterov(master, momentum, gradient, bounds, lr, beta):
    """u = beta * u + g; M -= lr * (g + beta * u): torch.optim.SGD(nesterov=True)."""
    for s in range(bounds.shape[0]):
        start, end = bounds[s]
        m, u, g = master[start:end], momentum[start:end], gradient[start:end]
        for i in range(m.size):
            u[i] = beta * u[i] + g[i]
            m[i] -= lr * (g[i] + beta * u[i])


@jit
def descend(master, gradient, bounds, lr, share):
    """M -= lr * (share * g)."""
    for s in range(bounds.shape[0]):
        start, end = bounds[s]
        m, g = master[start:end], gradient[start:end]
        for i in range(m.size):
            m[i] -= lr * (share * g[i])


@jit
def delayed(master, waiting, gradient, bounds, lr, share):
    """M -= lr * (share * g); acc += share * g: a step of Delayed Nesterov (arXiv 2401.09135, c = 0)."""
    for s in range(bounds.shape[0]):
        start, end = bounds[s]
        m, acc, g = master[start:end], waiting[start:end], gradient[start:end]
        for i in range(m.size):
            part = share * g[i]
            m[i] -= lr * part
            acc[i] += part


@jit
def flush(master, momentum, waiting, bounds, lr, beta):
    """u = beta * u + acc; M -= lr * (beta * u); acc = 0: its momentum, once a whole quorum's worth is in."""
    for s in range(bounds.shape[0]):
        start, end = bounds[s]
        m, u, acc = master[start:end], momentum[start:end], waiting[start:end]
        for i in range(m.size):
            u[i] = beta * u[i] + acc[i]
            m[i] -= lr * (beta * u[i])
            acc[i] = np.float32(0)
