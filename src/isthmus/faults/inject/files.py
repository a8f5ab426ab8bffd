"""Damage to a checkpoint that is on the disk."""

import os
import random
from pathlib import Path

from isthmus.errors import NotFoundError
from isthmus.faults.inject.kinds import KINDS, value_of


def damage(name: str, checkpoints: Path, value: float, seed: int = 0) -> str:
    """Make 'corrupt' or 'truncate' of the newest checkpoint in this folder; what was done, in a sentence.

    Raises NotFoundError if there is none.
    """
    path = newest(checkpoints)
    if path is None:
        raise NotFoundError(
            "there is no checkpoint yet", where=str(checkpoints), hint="wait for the first one"
        )
    value = value_of(KINDS[name], value)
    size = path.stat().st_size
    if name == "truncate":
        kept = int(size * (1 - value))
        os.truncate(path, kept)
        return f"cut {path.name} from {size} to {kept} bytes"
    flip_bits(path, int(value), seed)
    return f"flipped {value:g} bit{'s' * (value != 1)} of {path.name}"


def newest(checkpoints: Path) -> Path | None:
    """The tensor file of the highest step; None where there is none."""
    return max(checkpoints.glob("step-*.safetensors"), default=None)


def flip_bits(path: Path, count: int, seed: int) -> None:
    """In place, spread over the file; the same seed hits the same bits."""
    draws = random.Random(seed)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for bit in draws.sample(range(8 * size), min(count, 8 * size)):
            file.seek(bit // 8)
            byte = file.read(1)[0] ^ 1 << bit % 8
            file.seek(bit // 8)
            file.write(bytes([byte]))
