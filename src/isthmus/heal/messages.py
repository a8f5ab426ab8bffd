"""Between a site's keeper and its ranks: msgpack over a local socket, or over TLS from another node.

A process is known by its id, which the node that started it made up; a rank is a place in the site that one
process after another may hold. A generation is one composition of the group: its number never comes back, so
what was said in an earlier one can be told from what counts.
"""

import msgspec


class Hello(msgspec.Struct, frozen=True, tag=True):
    """Process to keeper, first, and again to a keeper that was restarted."""

    process: str
    pid: int
    rank: int = -1
    """The place it holds; -1: none yet."""
    generation: int = 0
    step: int = -1
    """Optimizer steps of the state it has; -1: it has none."""
    stays: bool = True
    """It can take a place in one group after another; False: it must be started anew for each."""


class Warm(msgspec.Struct, frozen=True, tag=True):
    """Process to keeper: model and optimizer are there, it can take a place at once."""


class Form(msgspec.Struct, frozen=True, tag=True):
    """Keeper to process: take this place in a new group."""

    generation: int
    rank: int
    world_size: int
    fresh: tuple[int, ...]
    """Ranks whose process is new: they have no state, as far as the keeper has heard; when the step is agreed
    each says for itself. All of them: each takes up checkpoint or copy."""
    address: str = "127.0.0.1"
    """Of this process's node, as the others reach it."""
    at_most_step: int = -1
    """Roll back: what is of a later step (in memory, copies, checkpoints) is dropped for good. -1: no."""


class Posted(msgspec.Struct, frozen=True, tag=True):
    """A pair of the group's store: process to keeper, and on to all others of the generation."""

    generation: int
    key: str
    value: bytes


class Abandon(msgspec.Struct, frozen=True, tag=True):
    """Keeper to process: this generation and all before are over, break the group now; a `Form` follows."""

    generation: int


class Broken(msgspec.Struct, frozen=True, tag=True):
    """Process to keeper: its group failed or could not be made; it waits for the next."""

    generation: int
    step: int
    reason: str


class Joined(msgspec.Struct, frozen=True, tag=True):
    """Process to keeper: it stands at the group's common step and trains on."""

    generation: int
    step: int
    lost_steps: int = 0
    """Steps that are done again, because no memory had them any more."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Process to keeper: an error of the program ends it now."""

    step: int
    error: str
    """Its last line, without what differs between two runs of it."""
    traceback: str
    exit_code: int
    final: bool = False
    """Whoever starts it again gets the same error again."""


class Leaving(msgspec.Struct, frozen=True, tag=True):
    """Process to keeper: it ends in order. Rank 0 says it when the last save is sound, with all ranks'
    parts."""

    reason: str


class Leave(msgspec.Struct, frozen=True, tag=True):
    """Keeper to process: finish the step, save, and end in order."""

    reason: str


class Inject(msgspec.Struct, frozen=True, tag=True):
    """Keeper to process: make this fault, for a drill (see `faults.inject`)."""

    kind: str
    at_step: int = -1
    """Optimizer steps done; -1: at once."""
    value: float = 0.0
    """Of what the kind takes: a factor, seconds, a number of bytes; 0: the kind's default."""
    at: str = ""
    """'saving' or 'recovering': the next one after that."""


RankMessage = Hello | Warm | Posted | Broken | Joined | Failed | Leaving
KeeperMessage = Form | Posted | Abandon | Leave | Inject
