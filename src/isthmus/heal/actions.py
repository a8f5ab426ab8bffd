"""What the keeper asks for. A batch is carried out in order."""

from typing import Literal

import msgspec

from isthmus.heal.messages import KeeperMessage


class Action(msgspec.Struct, frozen=True, tag=True):
    pass


class Spawn(Action, frozen=True, tag=True):
    """Start a process there. Then `Started`; `Exited` if it cannot be started."""

    node: str
    process: str
    as_rank: int | None = None
    """The place it is meant for; None: a standby. `Form` says what it gets."""


class Tell(Action, frozen=True, tag=True):
    process: str
    message: KeeperMessage


class Kill(Action, frozen=True, tag=True):
    """SIGKILL. `Exited` follows, with code None where there is no such process; from a node that cannot be
    reached, when it is back."""

    process: str


class Member(msgspec.Struct, frozen=True):
    process: str
    node: str
    has_state: bool
    gone: bool = False
    """For certain. One that is not gone and on no node may still run where nobody sees it."""


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    spare: bool
    health: str
    strikes: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a restarted keeper must know. Times are not in it: a wait begins anew."""

    boot: int = 0
    """Starts of the keeper; part of the ids of the processes it spawns."""
    generation: int = 0
    members: tuple[Member, ...] = ()
    """By rank."""
    world_size: int = 0
    step: int = -1
    nodes: tuple[NodeRecord, ...] = ()
    errors: tuple[tuple[str, int, int, str], ...] = ()
    """(process, rank, step, error) of those the program ended by."""
    at_most_step: int = -1
    leaving: str = ""
    left: tuple[str, ...] = ()


class Remember(Action, frozen=True, tag=True):
    """On disk before any later action of the batch is begun. If the disk refuses, the later actions of the
    batch wait."""

    generation: int
    record: Record


class Check(Action, frozen=True, tag=True):
    """Run the burn-in there; then `Checked`."""

    node: str


class Emit(Action, frozen=True, kw_only=True, tag=True):
    """For the journal: 'fault' -> Fault, 'healed' -> Healed; 'alert' and 'note' are lines for people. Seconds
    are those of the events."""

    kind: Literal["fault", "healed", "alert", "note"]
    subjects: tuple[str, ...] = ()
    """'rank-<site>-<rank>', 'node-<name>'; empty: the group or the site."""
    what: str = ""
    """fault: 'rank_died', 'silent_exit', 'hang', ...; healed: the step of the ladder."""
    text: str = ""
    generation: int = 0
    step: int = -1
    lost_steps: int = 0
    began_s: float = 0.0
    detected_s: float = 0.0
    diagnosed_s: float = 0.0
    regrouped_s: float = 0.0
    resumed_s: float = 0.0


class End(Action, frozen=True, tag=True):
    """The last action there is; all processes are to be gone after it."""

    outcome: Literal["done", "failed"]
    reason: str
    exit_code: int
    traceback: str = ""


AnyAction = Spawn | Tell | Kill | Remember | Check | Emit | End
