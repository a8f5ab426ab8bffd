"""What a training system keeps in memory for a model: the formats it holds state in, what its kernels save
for backward, and what it takes beside the model."""

import msgspec

GIB = 2**30
MOMENTS = {"adamw": 2, "sgd": 0}
"""fp32 numbers that an optimizer of isthmus keeps for each parameter, beside the parameter itself."""


class Convention(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes are of one element where no other unit is named."""

    name: str
    weight_bytes: float = 2
    """Of a parameter as matrix products read it. Fewer than 4 come with a master copy in the optimizer, which
    layouts in fp32 are without."""
    grad_bytes: float = 4
    optimizer_bytes: float = 12
    """Master copy and moments."""
    grad_buffers: bool = True
    """Gradients have their memory from the start; otherwise those of the first micro-batch take, in backward,
    the room of the activations that go."""
    reduce_bytes: float = 0
    """Of a parameter, beside its gradient, while gradients are summed over more than one replica."""
    narrow_bytes: float = 2
    """Of a parameter's copies in fp8 or fp4, in layouts of that precision: as it is, and transposed. What
    matrix products then read and keep takes half of 16 bits."""
    frees_gathered: bool = True
    """Under ZeRO stage 3, gathered weights go after forward and are gathered again for backward. Not so with
    `reshard_after_forward=False`, or where autograd keeps a view of them (DeepSpeed without
    `mem_efficient_linear`)."""
    cast_weights: bool = False
    """Weights are converted for each matrix product, and the copy is kept for backward."""
    cast_experts: bool = True
    """Those of experts as well; otherwise one expert's at a time."""
    residual_bytes: float = 0
    """Of the residual stream; 0: as the matrix products have it."""
    norm_bytes: float = 0
    """A norm keeps so much beyond its input and its output."""
    gate_tensors: int = 3
    """[T, ffn] tensors that a gated feed-forward part keeps. 3: gate, up and product; 4: also silu(gate)."""
    plain_tensors: int = 2
    """The same of one without gate: 2 with GELU, 1 with ReLU, whose output is all that backward needs."""
    expert_tensors: int = 3
    """As `gate_tensors`, of routed experts."""
    expert_copies: int = 2
    """Of each token for each of its experts: as it was sent there (1), and what the expert made of it (2)."""
    router_copy: bool = False
    """The router keeps its input in fp32."""
    flash: bool = True
    """The attention core keeps no scores (arXiv 2205.14135)."""
    dropout: bool = False
    sequence_parallel: bool = True
    """With tensor parallelism, what lies between its matrices is cut along the sequence."""
    logit_bytes: float = 10
    """Of a logit, at the peak of the loss; 0: the loss never holds them all."""
    loss_grads: bool = False
    """The loss makes the gradient of its matrix in the forward pass."""
    context_bytes: float = 1.0 * GIB
    """Device context, kernels, workspaces."""
    group_bytes: float = 0.5 * GIB
    """Buffers of the communication library, for each kind of group with more than one chip."""
    tensor_bytes: float = 0.0
    """With tensor parallelism: buffers that collectives on a stream of their own keep from being reused."""
    fragmentation: float = 0.0
    """Share of activations and transients that the allocator holds on top of them."""
    spread: float = 0.08
    """Standard deviation of the logarithm of (measured / predicted)."""


MEGATRON = Convention(name="megatron", logit_bytes=16, tensor_bytes=6.0 * GIB, spread=0.07)
"""Megatron-LM with Transformer Engine: bf16 weights, fp32 gradients, fp32 master weights and moments.
The loss has logits in 16 bits, in fp32, their exponentials, and both gradients. `tensor_bytes` is what 11
published runs took with tensor parallelism beyond what is accounted for (`memory_fit`)."""
DEEPSPEED = Convention(
    name="deepspeed",
    grad_bytes=2,
    optimizer_bytes=16,
    gate_tensors=4,
    logit_bytes=16,
    fragmentation=0.05,
    spread=0.10,
)
"""DeepSpeed's bf16 optimizer under ZeRO: its share holds master weights, moments and an fp32 gradient."""
FSDP = Convention(
    name="fsdp",
    weight_bytes=4,
    optimizer_bytes=8,
    gate_tensors=4,
    logit_bytes=12,
    fragmentation=0.05,
    spread=0.10,
)
"""PyTorch FSDP with fp32 parameters, which are gathered in the format of the matrix products."""
AMP = msgspec.structs.replace(FSDP, name="amp", cast_weights=True, grad_buffers=False)
"""PyTorch with autocast and plain data parallelism."""
ISTHMUS = Convention(
    name="isthmus",
    weight_bytes=4,
    optimizer_bytes=8,
    grad_buffers=False,
    reduce_bytes=4,
    cast_weights=True,
    cast_experts=False,
    residual_bytes=4,
    expert_tensors=2,
    expert_copies=0,
    router_copy=True,
    logit_bytes=0,
    loss_grads=True,
    context_bytes=0.0,
    group_bytes=0.0,
    fragmentation=0.2,
)
"""`isthmus train`: fp32 parameters, gradients and moments, whole on each rank; a loss in chunks. The
share that the allocator holds is of glibc's heap. What the process takes before it holds a model is measured
by a probe, and not in here."""

CONVENTIONS = {each.name: each for each in (MEGATRON, DEEPSPEED, FSDP, AMP, ISTHMUS)}
