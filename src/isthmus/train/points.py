"""Places in the training loop where a fault can be made on purpose."""

from enum import Enum, auto


class Point(Enum):
    STEP = auto()
    """A step begins."""
    DATA = auto()
    """Its rows are loaded."""
    SAVING = auto()
    RECOVERING = auto()
