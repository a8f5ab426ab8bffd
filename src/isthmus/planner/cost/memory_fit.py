"""What a framework on a machine takes beyond the formulas, from runs whose memory was measured.

Three numbers, on top of a convention: bytes that every process has, bytes that it has with tensor
parallelism, and a share of what comes and goes that the allocator holds as well. All are pulled towards none,
so that one or two runs move them little.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from isthmus.planner.cost.convention import GIB, Convention
from isthmus.planner.cost.stage_memory import StageMemory

BELIEF_GIB = 3.0
"""Standard deviation of the extra bytes before any run was seen."""
BELIEF_SHARE = 0.05
"""Of the extra share."""
NOISE = 0.05
"""Of a measurement, relative: a mean of readings, rounded to a GiB, of one of the chips."""


class MemoryFit(msgspec.Struct, frozen=True, kw_only=True):
    extra_bytes: float = 0.0
    tensor_bytes: float = 0.0
    extra_share: float = 0.0

    def apply(self, convention: Convention) -> Convention:
        """The convention of this framework on this machine."""
        return msgspec.structs.replace(
            convention,
            context_bytes=convention.context_bytes + self.extra_bytes,
            tensor_bytes=convention.tensor_bytes + self.tensor_bytes,
            fragmentation=convention.fragmentation + self.extra_share,
        )


class Measured(NamedTuple):
    """A run that was measured."""

    peak: StageMemory
    """Its fullest stage, as predicted by its convention."""
    used: float
    """Bytes on that chip."""
    tensor: bool
    """It had tensor parallelism."""


def fit_memory(runs: Sequence[Measured]) -> MemoryFit:
    """The most likely fit, with Gaussian beliefs and noise: ridge regression on three columns."""
    if not runs:
        return MemoryFit()
    noise = np.array([NOISE * run.used for run in runs])
    beliefs = np.array([BELIEF_GIB * GIB, BELIEF_GIB * GIB, BELIEF_SHARE])
    columns = np.array([[1.0, run.tensor, run.peak.activations + run.peak.transient] for run in runs])
    design = columns * beliefs / noise[:, None]
    left = np.array([run.used - run.peak.total for run in runs]) / noise
    scaled = np.linalg.solve(design.T @ design + np.eye(3), design.T @ left)
    extra_bytes, tensor_bytes, extra_share = (scaled * beliefs).tolist()
    return MemoryFit(extra_bytes=extra_bytes, tensor_bytes=tensor_bytes, extra_share=extra_share)
