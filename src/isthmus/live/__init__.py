"""Keep a training script of one's own alive.

    from isthmus import live

    keep = live.join(model, optimizer)
    for step in keep.steps(1000):
        with keep.step():
            loss = ...
            loss.backward()
            keep.average_gradients()
            optimizer.step()

Started by `isthmus run -- python train.py`, a rank that dies is replaced by one that is warm already, and
the others go on without losing a step. Started by torchrun, srun or alone, the same script trains too.
"""

from isthmus.live.join import join
from isthmus.live.keep import Keep

__all__ = ["Keep", "join"]
