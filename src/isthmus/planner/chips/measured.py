"""A chip as a probe found it."""

from typing import Any

import msgspec

from isthmus.planner.chips.chip import ChipModel, Origin
from isthmus.planner.probed.profile import CollectiveRate, Profile

_PEAKS = {
    "fp32": "fp32_tflops", "bf16": "bf16_tflops", "fp16": "bf16_tflops", "fp8": "fp8_tflops",
    "fp4": "fp4_tflops",
}  # fmt: skip
_KINDS = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "send")
"""The first that was measured says what the link carries: training spends most on the first."""


def with_profile(chip: ChipModel, profile: Profile) -> ChipModel:
    """`chip` with what was measured in place of the datasheet: peaks (the fastest product of each precision),
    memory and its bandwidth, the link. What was not measured stays."""
    found: dict[str, Any] = {}
    for rate in profile.matmuls:
        field = _PEAKS.get(rate.precision)
        if field:
            found[field] = max(found.get(field, 0.0), rate.tflops)
    found["memory_gib"] = profile.memory_bytes / 2**30
    found["memory_gb_s"] = profile.memory_gb_s
    found["link_gb_s"] = _link_gb_s(profile.collectives)
    found = {field: value for field, value in found.items() if value > 0}
    origins: dict[str, Origin] = {**chip.origins, **dict.fromkeys(found, "measured")}
    return msgspec.structs.replace(chip, **found, origins=origins, source=f"measured on {profile.device}")


def _link_gb_s(rates: list[CollectiveRate]) -> float:
    """What one rank sends a second. A rate counts the whole tensor, of which a ring passes on (n - 1) / n."""
    usable = [rate for rate in rates if rate.kind in _KINDS and rate.ranks > 1]
    if not usable:
        return 0.0
    best = min(usable, key=lambda rate: (_KINDS.index(rate.kind), -rate.ranks))
    part = 1.0 if best.kind == "send" else (best.ranks - 1) / best.ranks
    return best.gb_s * part * (2 if best.kind == "all_reduce" else 1)
