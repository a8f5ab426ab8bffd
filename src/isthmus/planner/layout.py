"""How one model lies on the chips of one site: degrees of each parallelism, schedule and memory switches."""

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Recompute = Literal["none", "selective", "full"]
"""Activations that backward computes again: nothing, the attention core (or, with flash attention, the
cheap element-wise parts), or whole layers."""
Schedule = Literal["1f1b", "interleaved", "zero-bubble"]
Sharding = Literal[0, 1, 2, 3]
"""ZeRO stage over the data-parallel group: nothing, optimizer, + gradients, + parameters (FSDP)."""
Precision = Literal["fp32", "fp16", "bf16", "fp8", "fp4"]
"""Format of the matrix products."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Chips of one replica = tp x cp x pp; of the site = replica x dp. Terms as in Megatron-LM."""

    tp: int = 1
    """Tensor parallel: each matrix is cut over this many chips, with sequence parallelism between."""
    cp: int = 1
    """Context parallel: each sequence is cut over this many chips."""
    pp: int = 1
    """Pipeline stages."""
    virtual: int = 1
    """Model chunks per stage; > 1: interleaved 1F1B."""
    dp: int = 1
    """Data parallel replicas."""
    ep: int = 1
    """Expert parallel: a layer's experts are spread over this many chips, of the dp (and cp) axis."""
    etp: int = 0
    """Expert tensor parallel: chips that share each expert; 0: as `tp`."""
    micro_batch: int = 1
    """Sequences a replica runs at once."""
    micro_batches: int = 1
    """Micro-batches of a replica in one step (m)."""
    seq_len: int = 2048
    recompute: Recompute = "none"
    sharding: Sharding = 1
    precision: Precision = "bf16"

    @property
    def expert_tp(self) -> int:
        return self.etp or self.tp

    @property
    def expert_unit(self) -> int:
        """Replicas over which one set of a layer's experts is spread: they come and go together."""
        experts = self.ep * self.expert_tp
        return experts // math.gcd(experts, self.cp * self.tp) if self.ep > 1 else 1

    @property
    def chips_per_replica(self) -> int:
        return self.tp * self.cp * self.pp

    @property
    def num_chips(self) -> int:
        return self.chips_per_replica * self.dp

    @property
    def replica_batch(self) -> int:
        """Sequences of one replica in one step."""
        return self.micro_batch * self.micro_batches

    @property
    def step_tokens(self) -> int:
        """Tokens of all replicas in one step."""
        return self.seq_len * self.micro_batch * self.micro_batches * self.dp


def in_flight(schedule: Schedule, num_stages: int, virtual: int, micro_batches: int) -> NDArray[np.float64]:
    """Micro-batches whose activations each stage holds at its peak, [S].

    1f1b: min(m, S - s). interleaved: min(m, (2 (S - 1 - s) + (v - 1) S + 1) / v), on the first stage
    1 + (S - 1) / (S v) times what all layers keep of one micro-batch (Korthikanti et al., arXiv 2205.05198,
    sec. 4.2.3). zero-bubble: min(m, S).
    """
    after = num_stages - 1.0 - np.arange(num_stages)
    if schedule == "zero-bubble":
        return np.full(num_stages, float(min(micro_batches, num_stages)))
    if schedule == "interleaved" and virtual > 1:
        return np.minimum(micro_batches, (2 * after + (virtual - 1) * num_stages + 1) / virtual)
    return np.minimum(micro_batches, after + 1)
