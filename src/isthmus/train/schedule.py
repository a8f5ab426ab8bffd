"""Learning rate as a pure function of progress, the share of the run's sample budget that was handed out.

No state: a resumed site, or one that joins late, computes the same rate from the same sample index.
"""

import math

from isthmus.spec.run import TrainSpec


def learning_rate(spec: TrainSpec, progress: float) -> float:
    """The rate of the step that ends at `progress` (0 < progress <= 1; values outside are clamped).

    Warm-up is linear from 0 over the first `spec.warmup`. Then, down to `spec.lr * spec.min_lr_ratio`:

    - cosine (arXiv 1608.03983, one period) over all that is left;
    - wsd (warm-up, stable, decay; arXiv 2404.06395) linearly over the last `spec.decay`;
    - constant: not at all.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < spec.warmup:
        return spec.lr * progress / spec.warmup
    return spec.lr * (spec.min_lr_ratio + (1.0 - spec.min_lr_ratio) * _height(spec, progress))


def _height(spec: TrainSpec, progress: float) -> float:
    """From 1 (peak) to 0 (floor)."""
    if spec.schedule == "cosine":
        span = 1.0 - spec.warmup
        done = (progress - spec.warmup) / span if span > 0 else 1.0
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if spec.schedule == "wsd":
        return min(1.0, (1.0 - progress) / spec.decay) if spec.decay > 0 else 1.0
    return 1.0
