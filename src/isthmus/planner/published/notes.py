"""Numbers that a row has only in its notes: 'GBS=512', 'layer split 7/9/9/9', '4x200 Gb'.

Notes are prose, so what is not a number of at most nine digits there is not stated.
"""

import re

ACCUMULATION = "grad_accum|micro_num|GAS|accumulation"
"""Names of the micro-batches of a step."""


def stated(names: str, notes: str) -> int:
    """Of 'NAME = 8', by any of the names in this pattern; 0: not stated."""
    said = re.search(rf"(?:{names})\s*=\s*(\d{{1,9}})(?!\d)", notes, re.IGNORECASE)
    return int(said.group(1)) if said else 0


def layer_split(notes: str) -> list[int]:
    """Layers of each stage, embedding and head counted as one each; empty: not stated."""
    said = re.search(r"layer split (\d{1,6}(?:/\d{1,6})*)(?![\d/])", notes)
    return [int(part) for part in said.group(1).split("/")] if said else []


def node_gb_s(notes: str) -> float:
    """Bandwidth of a node to others, 10^9 bytes/s: of '4x200 Gb' or '800 Gb/s RoCE'; 0: not stated."""
    several = re.search(r"\b(\d{1,4})x(\d{1,5})\s*Gb", notes)
    if several:
        return int(several.group(1)) * int(several.group(2)) / 8
    single = re.search(r"\b(\d{1,6})\s*Gb/s\s+(?:RoCE|IB|InfiniBand)", notes)
    return int(single.group(1)) / 8 if single else 0.0


def total_gib(notes: str) -> float:
    """Memory of a chip, from 'used/total 60/80'; 0: not stated."""
    said = re.search(r"used/total [\d.]+/(\d{1,6}(?:\.\d+)?)", notes)
    return float(said.group(1)) if said else 0.0
