"""What `isthmus probe` measured on a machine. It overrides the datasheet of the chip it was taken on."""

import msgspec


class MatmulRate(msgspec.Struct, frozen=True, kw_only=True):
    """[rows, inner] @ [inner, columns]."""

    rows: int
    inner: int
    columns: int
    precision: str
    tflops: float


class CollectiveRate(msgspec.Struct, frozen=True, kw_only=True):
    """A collective among `ranks` ranks of this machine, as seconds = latency_s + payload / rate."""

    kind: str
    """'all_reduce', 'all_gather', 'reduce_scatter', 'all_to_all' or 'send'."""
    ranks: int
    latency_s: float
    gb_s: float
    """Payload bytes (of the whole tensor) per second, 10^9."""


class BlockTime(msgspec.Struct, frozen=True, kw_only=True):
    """A block of one model, timed as training runs it."""

    block: str
    """'embedding', 'attention', 'dense', 'moe', 'head' (with the loss), or 'optimizer' (all parameters)."""
    model: str
    """Fingerprint of the shapes it was taken with (`fingerprint`)."""
    tokens: int
    """Of a micro-batch; 0 for 'optimizer'."""
    seq_len: int
    precision: str
    forward_s: float
    backward_s: float
    activation_bytes: int = 0
    """Kept from forward to backward."""
    spread: float = 0.0
    """Standard deviation of the logarithm over repetitions."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """JSON by msgspec. Everything in it was measured."""

    chip: str
    """As the fleet calls it."""
    device: str
    """What the machine says it is."""
    threads: int = 0
    """CPU threads per rank; 0: not a CPU."""
    memory_bytes: int
    memory_gb_s: float
    matmuls: list[MatmulRate] = []
    collectives: list[CollectiveRate] = []
    blocks: list[BlockTime] = []
    fixed_bytes: int = 0
    """What a training process takes before it holds a model."""
    versions: dict[str, str] = {}
