"""Rotary wavelengths stretched for contexts longer than a model was first trained for.

A period is the number of positions in which a pair of dimensions turns by one radian, theta^(2i / head_dim);
dividing a frequency by a factor is multiplying its period by it.
"""

import math

import torch
from torch import Tensor

from isthmus.spec.model import ModelSpec, RopeScaling


def stretched(periods_P: Tensor, spec: ModelSpec) -> Tensor:
    """The periods [head_dim / 2], shortest first, as `spec.rope_scaling` stretches them."""
    scaling = spec.rope_scaling
    if scaling.kind == "linear":
        return periods_P * scaling.factor
    if scaling.kind == "llama3":
        return _blend(periods_P, _llama3_kept(periods_P, scaling), scaling.factor)
    if scaling.kind == "yarn":
        return _blend(periods_P, _yarn_kept(periods_P, spec), scaling.factor)
    return periods_P


def yarn_attention_factor(factor: float) -> float:
    """The square root of 1/t in the paper's temperature (arXiv 2309.00071, eq. 22)."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def _blend(periods_P: Tensor, kept_P: Tensor, factor: float) -> Tensor:
    """Frequencies go from untouched (kept 1) to divided by the factor (kept 0)."""
    return periods_P / (kept_P + (1 - kept_P) / factor)


def _llama3_kept(periods_P: Tensor, scaling: RopeScaling) -> Tensor:
    """By how often a pair turns in the original context: a ramp from low_freq_factor to high_freq_factor."""
    turns_P = scaling.original_max_seq_len / (2 * math.pi * periods_P)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return ((turns_P - low) / (high - low)).clamp(0, 1)


def _yarn_kept(periods_P: Tensor, spec: ModelSpec) -> Tensor:
    """A ramp over the dimensions, between those that turn beta_fast and beta_slow times (eq. 17 and 18)."""
    scaling, count = spec.rope_scaling, len(periods_P)

    def dimension(turns: float) -> float:
        span = scaling.original_max_seq_len / (turns * 2 * math.pi)
        return count * math.log(span) / math.log(spec.rope_theta)

    low = max(math.floor(dimension(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow)), spec.head_dim - 1)
    places_P = torch.arange(count, device=periods_P.device, dtype=torch.float32)
    return 1 - ((places_P - low) / max(high - low, 0.001)).clamp(0, 1)
