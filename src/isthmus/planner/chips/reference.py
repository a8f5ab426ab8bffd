"""docs/chips.md, made from the catalogue. `python -m isthmus.planner.chips.reference` writes it anew."""

from pathlib import Path
from typing import Any

import msgspec

from isthmus.planner.chips.catalog import catalog
from isthmus.planner.chips.chip import ChipModel

PAGE = "docs/chips.md"

HEAD = """# Chips

What the planner believes of a chip before `isthmus probe` has measured it. Made from the catalogue by
`python -m isthmus.planner.chips.reference`; a test fails when it is stale. Any spelling finds a chip: `a100`,
`A100-80G`, `NVIDIA A100-SXM4-80GB`. A chip that is missing here, or misjudged, goes into
[fleet.yaml](config.md):

```yaml
chips:
  my-h100: {like: h100, nic: 200 Gbps}
```

TFLOP/s are of dense matrix products; 16-bit means bf16 with fp32 accumulation, fp16 on Volta and Turing.
GB/s are of one chip in one direction: to its memory, to the chips of its node (of its domain where that is
larger), to other nodes. A chip is what one rank drives: an Ascend 910C or MI250X is one of the two dies of
its package.

A value is from the maker's datasheet or a page that repeats it, unless marked: ~ only believed, + derived
from others, ^ measured by somebody. Nothing marked ~ should decide anything that costs money: probe first.
"""

_MARKS = {"believed": "~", "derived": "+", "published": "^", "measured": "^", "datasheet": ""}
_COLUMNS = {
    "fp32": "fp32_tflops", "16-bit": "bf16_tflops", "fp8": "fp8_tflops", "fp4": "fp4_tflops",
    "GiB": "memory_gib", "memory": "memory_gb_s", "link": "link_gb_s", "network": "nic_gb_s",
    "node": "per_node", "domain": "node_domain",
}  # fmt: skip


def describe() -> list[dict[str, Any]]:
    """The catalogue as plain dicts, one for each chip, in its order."""
    return [msgspec.to_builtins(chip) for chip in catalog().values()]


def reference() -> str:
    """The page."""
    head = ["chip", "generation", *_COLUMNS, "collectives"]
    lines = [HEAD, f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [_line(chip) for chip in catalog().values()]
    lines += ["", "## Where it is from", ""]
    lines += [f"- {chip.name}: {chip.source}" for chip in catalog().values()]
    return "\n".join(lines) + "\n"


def _line(chip: ChipModel) -> str:
    cells = [_cell(chip, field) for field in _COLUMNS.values()]
    return f"| {' | '.join([chip.name, chip.generation, *cells, chip.collectives])} |"


def _cell(chip: ChipModel, field: str) -> str:
    value = getattr(chip, field)
    return f"{_MARKS[chip.origins.get(field, 'datasheet')]}{value:g}" if value else ""


if __name__ == "__main__":
    Path(PAGE).write_text(reference(), encoding="utf-8")
