"""Which chips a row ran on: one kind, or several with how many of each, in whatever spelling."""

import re

from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.chips.find import find_chip
from isthmus.planner.published.rows import Row

_SERVERS = {r"atlas.*a3|cloudmatrix": "910C", r"atlas|ascend|\bnpu\b": "910B"}
"""Machines and families that tables name instead of a chip, by what most of them hold."""
_COUNTED = re.compile(r"^(?:(\d{1,9})\s*[x*]\s*)?(.+?)(?:\s*[x*]\s*(\d{1,9}))?$", re.IGNORECASE)
MOST = 4096
"""Chips of one kind that are told apart; of more only the proportions count."""


def chips_of(row: Row, assumed: list[str]) -> list[ChipModel]:
    """One for each chip of a name such as 'RTX-2080x8+RTX-3090x4', where the row says that its chips are
    unlike or the name counts each kind; else a single one. InputError for a chip that is not known."""
    names = [part.strip() for part in re.split(r"[+/|,;&]|\band\b", row.chip) if part.strip()]
    kinds = [_counted(name) for name in names]
    unlike = row.hetero not in ("", "0") or all(count is not None for _, count in kinds)
    if len(names) < 2 or not unlike:
        return [_chip(row.chip, assumed)]
    found = [(_chip(name, assumed), 1 if count is None else count) for name, count in kinds]
    chips = [chip for chip, count in found for _ in range(min(count, MOST))]
    if not chips:
        raise InputError(f"'{row.chip}' counts no chips", hint="name how many of each, as 'H100x8+A100x8'")
    return chips


def _counted(name: str) -> tuple[str, int | None]:
    """'8 x H100' or 'H100x8' -> (H100, 8); None: not counted."""
    said = _COUNTED.match(name)
    if said is None:
        return name, None
    count = said.group(1) or said.group(3)
    return said.group(2), int(count) if count else None


def _chip(name: str, assumed: list[str]) -> ChipModel:
    """As the catalogue has it; else what is left when words are dropped from the end, a last number being
    gigabytes of memory; else what the machine of that name holds."""
    try:
        return _tf32(find_chip(name))
    except InputError as error:
        unknown = error
    words = [word for word in re.split(r"[\s_/()-]+", name) if word]
    shorter = ["-".join(words[:end]) for end in range(len(words) - 1, 0, -1)]
    memory = [f"{name}GB"] if re.search(r"-\d+$", name) else []
    server = next((chip for pattern, chip in _SERVERS.items() if re.search(pattern, name.lower())), "")
    for guess in [*memory, *shorter, *([server] if server else [])]:
        try:
            found = _tf32(find_chip(guess))
        except InputError:
            continue
        assumed.append(f"'{name}' is {found.name}")
        return found
    raise unknown


def _tf32(chip: ChipModel) -> ChipModel:
    """What runs in 'fp32' on recent chips multiplies in TF32, at half the rate of bf16."""
    if chip.generation in ("ampere", "hopper", "blackwell"):
        return replace(chip, fp32_tflops=chip.bf16_tflops / 2)
    return chip
