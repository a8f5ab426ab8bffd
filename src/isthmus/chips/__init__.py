"""One file per accelerator family; the folder is the registry.

Importing this room does not import torch; `get` does, as it loads the family's file.
"""

import importlib

from isthmus.chips.chip import Chip, DtypeChoice, Facts
from isthmus.chips.names import FAMILIES, family_of

__all__ = ["FAMILIES", "Chip", "DtypeChoice", "Facts", "family_of", "get"]


def get(name: str) -> Chip:
    """The chip family that drives `name`, a family ('cuda') or a model ('h100'). InputError if unknown."""
    return importlib.import_module(f"isthmus.chips.{family_of(name)}").chip
