"""What a site's rank 0 knows beside the parameters. Its client keeps a copy, for a rank 0 in its place."""

from enum import IntEnum

import msgspec

from isthmus.outer.ranges import Range, Ranges, covers, normal, subtract
from isthmus.outer.window import Window


class Stand(msgspec.Struct, frozen=True, kw_only=True):
    """Where the loop around a site stands."""

    step: int = 0
    samples: Ranges = ()
    """What that step was done on."""
    resume: bool = False
    """The model holds the parameters after `step`, kept by others while rank 0 was replaced."""


class BaseReady(msgspec.Struct, frozen=True, tag=True):
    """Client to rank: a base to take up."""

    version: int
    pushes_seen: int
    reset: bool
    """Drop local progress and all work in hand; what remains leased is granted again."""
    moments: bool
    """Drop the optimizer's moments too (first parameters, or a quarantined push)."""


class Todo(IntEnum):
    """What is left of a step boundary: it is cut where a message to the client changes what comes next."""

    NOTHING = 0
    LOOK = 1
    """For a version to take up, then the rest."""
    PUSH = 2
    """If a push is due, then the rest."""
    WAIT = 3
    """For the version of the push just made: strict, without delay."""


class Kept(IntEnum):
    """Where the parameters after the last step are, beside rank 0. Other ranks have them as they were before
    a version was taken up, or in part, until the order that follows is carried out.
    """

    OTHERS = 0
    SNAPSHOT = 1
    """In the shared snapshot."""
    REFERENCE = 2
    """They are the reference: a base was taken up without any progress on top."""


class SiteState(msgspec.Struct, kw_only=True):
    """Replayed by a rank 0 that comes in place of another: this, and what the client has said since."""

    step: int = 0
    """Steps that are counted here."""
    samples: list[Range] = []
    """Of the last step."""
    todo: Todo = Todo.NOTHING
    kept: Kept = Kept.OTHERS
    heard: int = 0
    """Messages of the client that are in this."""
    window: Window = msgspec.field(default_factory=Window)
    ranges: list[Range] = []
    """Leased, and not handed out to the loop."""
    base: BaseReady | None = None
    pushes: int = 0
    since_push: int = 0
    may_push: bool = True
    rate_told: bool = False
    reset: bool = False
    """The moments must start afresh."""
    stop: str | None = None
    version: int = -1
    inner_steps: int = 1
    strict: bool = False
    delay: int = -1

    def hand_out(self, samples: Ranges) -> bool:
        """Takes samples out of those in hand, whose order stays. False if they are not all there."""
        if not samples or not covers(normal(self.ranges), normal(samples)):
            return False
        self.ranges = [piece for span in self.ranges for piece in subtract((span,), normal(samples))]
        return True
