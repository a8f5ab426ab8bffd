"""What `isthmus probe` measured on a machine. It overrides the datasheet of the chip it was taken on."""

import hashlib
from typing import Literal

import msgspec

from isthmus.spec.model import ModelSpec


class MatmulRate(msgspec.Struct, frozen=True, kw_only=True):
    """[rows, inner] @ [inner, columns]."""

    rows: int
    inner: int
    columns: int
    precision: str
    tflops: float
    spread: float = 0.0
    """Standard deviation of the logarithm over repetitions."""


Kind = Literal["all_reduce", "broadcast", "all_gather", "reduce_scatter", "all_to_all", "send"]


class CollectiveRate(msgspec.Struct, frozen=True, kw_only=True):
    """A collective among `ranks` ranks of this machine, as seconds = latency_s + payload / rate."""

    kind: Kind
    ranks: int
    latency_s: float
    gb_s: float
    """Payload bytes (of the whole tensor) per second, 10^9."""

    def seconds(self, num_bytes: float) -> float:
        """Of one such collective on its own."""
        return self.latency_s + num_bytes / (self.gb_s * 1e9)


Block = Literal["embedding", "attention", "dense", "moe", "head", "optimizer", "step", "push"]


class BlockTime(msgspec.Struct, frozen=True, kw_only=True):
    """A block of one model, timed as training runs it, in the midst of a whole step."""

    block: Block
    """'embedding'; 'attention', 'dense' or 'moe' of one layer; 'head' (with the loss); 'optimizer' (all that
    is done to gradients and parameters after backward); 'step' (what a step has beside: the order of the next
    one, its rows, the journal); 'push': what a push and the version after it cost a site, `forward_s` in its
    rank 0, `backward_s` in its client."""
    model: str
    """Fingerprint of the shapes it was taken with (`fingerprint`)."""
    tokens: int
    """Of a micro-batch; 0 for 'optimizer', 'step' and 'push', which have their time in `forward_s`."""
    seq_len: int
    precision: str
    forward_s: float
    backward_s: float
    """Of a step's first micro-batch."""
    accumulate_s: float = 0.0
    """What backward takes longer in the micro-batches after it, which add to gradients that are there."""
    activation_bytes: int = 0
    """Kept from forward to backward."""
    params: int = 0
    """Of the block; of 'optimizer', 'step' and 'push' those of the whole model it was taken with."""
    spread: float = 0.0
    """Standard deviation of the logarithm over repetitions."""


class ExchangeTime(msgspec.Struct, frozen=True, kw_only=True):
    """What data parallelism over `ranks` ranks added to the steps of the probed model."""

    model: str
    ranks: int
    num_layers: int
    """Of the probed model, which has fewer than the run's; the dense ones come first."""
    moe_layers: int
    tokens: int
    """Of a micro-batch of a rank."""
    added_s: float
    """Seconds of a step, over the same step without the exchange of gradients."""


class Workspace(msgspec.Struct, frozen=True, kw_only=True):
    """Memory that a step takes beside parameters, gradients, moments and kept activations."""

    model: str
    tokens: int
    """Of a micro-batch."""
    num_bytes: int


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """JSON by msgspec. Everything in it was measured."""

    chip: str
    """As the fleet calls it."""
    device: str
    """What the machine says it is."""
    threads: int = 0
    """CPU threads per rank; 0: not a CPU."""
    ranks: int = 1
    """Ranks of this machine that ran at once while it was measured: they share its memory bandwidth."""
    memory_bytes: int
    memory_gb_s: float
    """Bytes read and written by one rank, 10^9/s."""
    matmuls: list[MatmulRate] = []
    collectives: list[CollectiveRate] = []
    blocks: list[BlockTime] = []
    exchanges: list[ExchangeTime] = []
    workspaces: list[Workspace] = []
    fixed_bytes: int = 0
    """What a training process takes before it holds a model."""
    versions: dict[str, str] = {}


def fingerprint(model: ModelSpec) -> str:
    """Of the shapes of a model's blocks: alike for models that differ in the number and order of layers."""
    layers = {"num_layers": 1, "first_moe_layer": 0, "moe_every": 1, "dense_layers": [], "max_seq_len": 1}
    shapes = msgspec.structs.replace(model, **layers)
    return hashlib.sha256(msgspec.json.encode(shapes)).hexdigest()[:16]
