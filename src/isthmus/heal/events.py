"""What the keeper hears. Seconds are those of one clock of the keeper's node that a restart does not set
back.
"""

import msgspec

from isthmus.faults.diagnosis import Diagnosis
from isthmus.faults.finding import Finding
from isthmus.heal.messages import RankMessage


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    now_s: float


class NodeJoined(Event, frozen=True, tag=True):
    """Its agent is there, also after a keeper's restart or a cut; `Started` follows
    for each process it has."""

    node: str
    slots: int
    """Places it can hold."""
    spare: bool = False
    address: str = "127.0.0.1"


class NodeLost(Event, frozen=True, tag=True):
    """Its agent cannot be reached; what its processes do is not known."""

    node: str


class Started(Event, frozen=True, tag=True):
    """A process runs there: one that was spawned, or one a restarted keeper finds."""

    process: str
    node: str


class Exited(Event, frozen=True, tag=True):
    """It is gone for certain. `code`: negative for a signal; None: not known, or it was never there."""

    process: str
    code: int | None
    words: str = ""
    """The end of what it printed, or why it could not be started."""


class Said(Event, frozen=True, tag=True):
    """A process says something. To a restarted keeper it says `Hello`, then once more what it said last of
    Warm, Joined, Broken and Leaving."""

    process: str
    message: RankMessage


class Found(Event, frozen=True, tag=True):
    """A detector found something, in this generation's pages."""

    finding: Finding
    generation: int


class Diagnosed(Event, frozen=True, tag=True):
    diagnosis: Diagnosis
    generation: int
    """The ranks are those of this generation."""


class Checked(Event, frozen=True, tag=True):
    """How the burn-in of a node went."""

    node: str
    ok: bool
    text: str = ""


class LeaveAsked(Event, frozen=True, tag=True):
    """The site is to save and end in order: a person, a budget, a node that is taken away."""

    reason: str


class Tick(Event, frozen=True, tag=True):
    """At least ten times a second while a group is not running, else every second."""

    step: int = -1
    """Optimizer steps done, the highest on the members' pages."""


AnyEvent = NodeJoined | NodeLost | Started | Exited | Said | Found | Diagnosed | Checked | LeaveAsked | Tick
