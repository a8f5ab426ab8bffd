"""How far real code is from the datasheet: seconds per ideal second of each component of a step.

A component's ideal seconds (`ideal.py`) are arithmetic on shapes and datasheet; its factor says how many
seconds a second of it takes: 1 / efficiency for work, the part that is not hidden for communication.
"""

import msgspec


class Factors(msgspec.Struct, frozen=True, kw_only=True):
    """The defaults are the beliefs that the fit starts from (`belief.py`); a fitted belief gives others."""

    matmul: float = 1.2
    """Matrix products at the peak rate of their format."""
    operands: float = 1.0
    """Reading and writing the operands of matrix products once at memory bandwidth: what makes narrow
    products slow (a sum instead of the roofline's maximum)."""
    attention: float = 1.8
    """Attention core at the bf16 peak."""
    elementwise: float = 1.3
    """Norms, residuals, rotary embedding, activations, at memory bandwidth."""
    scores: float = 1.0
    """Scores and probabilities of attention that is not fused, at memory bandwidth."""
    loss: float = 1.2
    """Logits and the cross-entropy, at memory bandwidth."""
    cast: float = 1.0
    """Conversions to narrow formats, at memory bandwidth."""
    route: float = 2.0
    """Permutation of tokens to experts and back, at memory bandwidth."""
    launch: float = 1.0
    """Starting kernels, `ideal.LAUNCH_S` each."""
    tensor: float = 1.0
    """Collectives of tensor and sequence parallelism."""
    context: float = 0.4
    """Exchange of keys and values in context parallelism."""
    expert: float = 1.0
    """Exchange of tokens between experts."""
    send: float = 0.5
    """Activations to the next stage."""
    bubble: float = 1.1
    """Idle time of the pipeline, relative to the schedule's formula."""
    sync: float = 1.2
    """Gradients summed over the replicas and sharded weights gathered, before any of it is hidden."""
    gather: float = 0.7
    """Weights of ZeRO 1 and 2 gathered after the update: the part that is not hidden."""
    optimizer: float = 1.5
    """Optimizer's pass over its state, at memory bandwidth."""
    overhead: float = 1.0
    """Fixed part of a step: `ideal.STEP_S`."""
    jitter: float = 1.0
    """Waiting for the slowest: `ideal.JITTER` of the step for each doubling of the nodes."""
    total: float = 1.0
    """On the whole step: what the components do not tell of a framework on a chip."""
    fused_attention: bool = True
    """Flash attention; otherwise the scores are written to memory and causality saves nothing."""


COMPONENTS: tuple[str, ...] = (
    "matmul",
    "operands",
    "attention",
    "elementwise",
    "scores",
    "loss",
    "cast",
    "route",
    "launch",
    "tensor",
    "context",
    "expert",
)
"""Of a block, in the order of the arrays in `ideal.py`."""
