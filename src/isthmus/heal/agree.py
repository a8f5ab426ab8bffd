"""What a new group agrees on once it is made: the step it goes on from, and who copies state from whom."""

from collections.abc import Sequence

import msgspec


class Agreement(msgspec.Struct, frozen=True):
    step: int
    """-1: nobody has state, all take up the newest they find and agree once more."""
    donor: int
    behind: tuple[int, ...]
    """Ranks that copy the donor's state."""


def agree(steps: Sequence[int]) -> Agreement:
    """`steps` by rank: optimizer steps fully applied, -1 without state. A step that one member has applied
    has everybody's gradients in it, so it counts; nothing is done twice."""
    step = max(steps)
    return Agreement(step, steps.index(step), tuple(r for r, held in enumerate(steps) if held != step))
