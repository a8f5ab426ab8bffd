"""What the planner knows of a chip: its datasheet, each value with where it comes from."""

from typing import Literal

import msgspec

Origin = Literal["datasheet", "published", "measured", "derived", "believed"]
"""datasheet: the maker's page; published: read from somebody's measurement; measured: by `isthmus probe`;
derived: arithmetic on such values; believed: no page was found, so it has a wide spread."""


class ChipModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Peak rates of one chip. 0 means unknown: what would need it is refused by name."""

    name: str
    aliases: list[str] = []
    """Other spellings, compared without case, '-', '_' and blanks."""
    generation: str
    """Chips of one generation share efficiencies: 'ampere', 'hopper', 'blackwell', 'ascend', 'cpu', ..."""
    fp32_tflops: float = 0.0
    bf16_tflops: float = 0.0
    """Dense matrix products with fp32 accumulation; 10^12 FLOP/s."""
    fp8_tflops: float = 0.0
    fp4_tflops: float = 0.0
    memory_gib: float
    memory_gb_s: float
    """Bandwidth of its memory, 10^9 bytes/s."""
    link_gb_s: float
    """To the other chips of its node, one direction, 10^9 bytes/s."""
    nic_gb_s: float
    """To other nodes, one direction and this chip's part, 10^9 bytes/s."""
    per_node: int = 8
    """Chips in the usual node."""
    node_domain: int = 0
    """Chips joined by the node's link where that is more than one node (NVL72); 0: `per_node`."""
    collectives: str = "nccl"
    """Library its collectives use; chips of unlike libraries are joined through host memory."""
    origins: dict[str, Origin] = {}
    """Field -> where its value is from; fields not named are from the datasheet."""
    source: str = ""
    """The page."""

    def peak_tflops(self, precision: str) -> float:
        """Of matrix products in `precision`, or in the next wider format that the chip multiplies faster."""
        ladder = {"fp4": self.fp4_tflops, "fp8": self.fp8_tflops, "bf16": self.bf16_tflops}
        ladder["fp16"] = self.bf16_tflops
        wider = {"fp4": ("fp4", "fp8", "bf16"), "fp8": ("fp8", "bf16")}.get(precision, (precision,))
        if precision == "fp32":
            return self.fp32_tflops
        return next((ladder[each] for each in wider if ladder[each]), self.fp32_tflops)

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gib * 2**30)
