"""How the load of a Mixture-of-Experts model is kept even while it trains."""

from typing import Literal

import msgspec

from isthmus.spec.ranges import NonNegative, Positive, ShareBelow1


class BalanceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Losses, capacity and bias that keep the experts evenly loaded. Evaluation never drops a token."""

    loss: Literal["skywork", "switch", "none"] = "skywork"
    """skywork: sum_j (1/n - mean_i g_ij)^2 (arXiv 2406.06563, eq. 4); switch: n sum_j f_j P_j
    (arXiv 2101.03961, eq. 4)."""
    scope: Literal["micro", "global"] = "micro"
    """switch only: f_j, the share of choices that fell on expert j, of each micro-batch, or of all ranks'
    whole batch (of the step before, so that no layer waits for the network)."""
    coef: NonNegative = 0.01
    """Weight of the balance loss of each MoE layer; where `adaptive`, its value at the start."""
    adaptive: bool = False
    """The weight of each layer follows its token drop rate d: c <- decay c + (1 - decay) min(gain d, max)
    (arXiv 2406.06563, eq. 7-9)."""
    adaptive_gain: Positive = 0.2
    """The paper's xi."""
    adaptive_max: Positive = 0.01
    """The paper's alpha_max."""
    adaptive_decay: ShareBelow1 = 0.99
    """The paper's beta."""
    z_loss: NonNegative = 0.0
    """Weight of the mean squared logsumexp of the router's logits (arXiv 2202.08906, eq. 5)."""
    bias_rate: NonNegative = 0.0
    """Step by which the router's bias moves against an expert's load after each optimizer step; needs
    model.router_bias (arXiv 2408.15664; 0.001 in DeepSeek-V3)."""
    capacity: NonNegative = 0.0
    """Choices an expert takes from a micro-batch, relative to an even share; the others are dropped. 0: none
    is dropped."""
    drop: Literal["score", "position"] = "score"
    """With a capacity, which choices an expert keeps: the highest scores, or the first in the batch."""
    nominal_capacity: Positive = 1.25
    """Without a capacity: choices above this capacity count as dropped in the drop rate, though none is."""
