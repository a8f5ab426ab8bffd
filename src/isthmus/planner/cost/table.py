"""Costs of each block of a model on one kind of chip, under one layout.

Block 0 is the embedding, 1..L are the layers, L + 1 is the output head with the loss.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Arrays over blocks [L + 2]. Seconds are of one micro-batch with the communication inside a stage,
    bytes of one chip."""

    forward_s: Floats
    backward_s: Floats
    recompute_s: Floats
    """What backward takes longer where the block's activations are computed again."""
    state_bytes: Floats
    """Weights, gradients and optimizer state, under the layout's sharding."""
    activation_bytes: Floats
    """Kept from forward to backward, each micro-batch in flight."""
    checkpoint_bytes: Floats
    """Kept instead where the block is recomputed."""
    sync_bytes: Floats
    """Gradients that replicas sum up in each step: of dense parameters, by all of them."""
    expert_sync_bytes: Floats
    """The same of experts, by the replicas that hold the same ones."""
    params: Floats
    """Parameters of one chip."""
    fixed_bytes: float
    """Context, workspaces, what the allocator cannot use."""
    again_bytes: float
    """Besides, on a stage that recomputes any layer whole."""
    send_s: float
    """Activations of a micro-batch to the next stage, one way, over the network between stages."""
    parts: dict[str, Floats] = field(default_factory=dict)
    """forward_s + backward_s by what they are spent on."""

    @cached_property
    def state_sum(self) -> float:
        return float(self.state_bytes.sum())

    @cached_property
    def sync_sums(self) -> tuple[float, float]:
        """Of dense parameters and of experts."""
        return float(self.sync_bytes.sum()), float(self.expert_sync_bytes.sum())

    @cached_property
    def running(self) -> Floats:
        """[3, L + 3]: forward_s, sync_bytes and expert_sync_bytes of all blocks before one."""
        rows = np.array([self.forward_s, self.sync_bytes, self.expert_sync_bytes])
        return np.concatenate((np.zeros((3, 1)), np.cumsum(rows, axis=1)), axis=1)
