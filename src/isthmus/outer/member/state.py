"""What a site's client knows, the events it takes and the actions it asks for."""

import msgspec

from isthmus.outer.messages import (
    Contribution,
    Fragment,
    Identity,
    Message,
    Refused,
    Terms,
    VersionReady,
    VoteRequest,
)
from isthmus.outer.ranges import Ranges


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    contribution: Contribution
    encoding: bool = False
    encoded: bool = False
    uploaded: bool = False
    """Handed to the connection since the last Welcome."""
    accepted: bool = False


class Offer(msgspec.Struct, frozen=True):
    """A base the ranks were given and have not taken yet."""

    version: int
    reset: bool
    moments: bool


class MemberState(msgspec.Struct, frozen=True, kw_only=True):
    site: str
    incarnation: int
    identity: Identity = Identity()
    now_s: float = 0.0
    # the server
    epoch: int = 0
    """Highest epoch a server has spoken in."""
    voted_epoch: int = 0
    voted_for: str = ""
    ballot: VoteRequest | None = None
    """A vote that must be durable before it is cast, and the server it goes to."""
    ballot_server: str = ""
    ballot_begun: bool = False
    links: tuple[str, ...] = ()
    home: str = ""
    """The server that welcomed this client; '' while there is none."""
    session: int = 0
    asked: dict[str, int] = {}
    """Server -> session of the Hello it has not answered yet."""
    hello_due: tuple[str, ...] = ()
    hello_s: float = 0.0
    fence_due: tuple[str, ...] = ()
    refused: Refused | None = None
    terms: Terms | None = None
    batch_size: int = 1
    heartbeat_s: float = -1e9
    # leases
    admission: int = 0
    grants: int = 0
    work: Ranges = ()
    """Leased, with the ranks, not pushed."""
    unsaid: Ranges = ()
    """The part of `work` the ranks have not been told of."""
    lost: Ranges = ()
    lost_due: bool = False
    wanted: int = -1
    """The grant count at which work was last asked for."""
    window: int = 1
    told_window: int = 0
    # contributions
    seq: int = 0
    pending: Pending | None = None
    forget: tuple[int, bool] | None = None
    """(seq, discarded): what the executor may drop, and whether the error feedback goes back."""
    may_push_due: bool = False
    # versions
    version: int = -1
    hash: str = ""
    announced: tuple[VersionReady, ...] = ()
    arrived: tuple[tuple[int, int], ...] = ()
    """(version, base) of announced versions whose fragments are all here."""
    installing: VersionReady | None = None
    applied_due: bool = False
    refresh_due: bool = False
    refreshing: bool = False
    # ranks
    attached: bool = False
    start_due: bool = False
    pushes: int = 0
    taken: int = -1
    offer: Offer | None = None
    rebase_due: bool = False
    reset_due: bool = False
    moments_due: bool = False
    step_s: float = 0.0
    up_s: float = 0.0
    down_s: float = 0.0
    # the end
    stop: str = ""
    stop_s: float = 0.0
    stop_told: bool = False
    left: bool = False
    """The ranks do no more steps."""
    goodbye_sent: bool = False
    exited: bool = False


# ---- events


class Event(msgspec.Struct, frozen=True):
    pass


class Tick(Event, frozen=True):
    now_s: float


class LinkUp(Event, frozen=True):
    server: str


class LinkDown(Event, frozen=True):
    server: str


class Received(Event, frozen=True):
    server: str
    message: Message


class RanksAttached(Event, frozen=True):
    """Rank 0 is there, with its initial parameters; also after a restart. `hash`: the client has taken
    them over as its copy of version 0 (they follow from the seed, so all sites have the same); '' if it
    has not."""

    hash: str = ""


class RanksGone(Event, frozen=True):
    """The ranks died: progress since the last push is gone."""


class Pushed(Event, frozen=True):
    """The snapshot of the local parameters is written. `step_s`: mean seconds of a step, waiting not
    counted."""

    ranges: Ranges
    tokens: int
    group_tokens: tuple[int, ...]
    steps: int
    step_s: float


class Encoded(Event, frozen=True):
    seq: int
    norm: float
    fragments: tuple[Fragment, ...]


class Uploaded(Event, frozen=True):
    """All fragments have left: how long it took."""

    seq: int
    up_s: float


class VersionArrived(Event, frozen=True):
    """All fragments of an announced version are here, checksums right."""

    version: int
    base: int
    down_s: float


class Installed(Event, frozen=True):
    """The client's copy of the published parameters is at `version`, with this hash."""

    version: int
    hash: str


class Taken(Event, frozen=True):
    """The ranks stand on the offered base."""

    version: int


class Rate(Event, frozen=True):
    step_s: float


class Leaving(Event, frozen=True):
    """The ranks do no more steps; comes after their last push."""

    reason: str


class StopAsked(Event, frozen=True):
    """A person or the agent wants this site to leave."""

    reason: str


class BallotDurable(Event, frozen=True):
    epoch: int
    candidate: str


class Issued(Event, frozen=True):
    actions: tuple["AnyAction", ...]


AnyEvent = (
    Tick | LinkUp | LinkDown | Received | RanksAttached | RanksGone | Pushed | Encoded | Uploaded |
    VersionArrived | Installed | Taken | Rate | Leaving | StopAsked | BallotDurable | Issued
)  # fmt: skip


# ---- actions


class Action(msgspec.Struct, frozen=True):
    pass


class Send(Action, frozen=True):
    server: str
    message: Message


class Encode(Action, frozen=True):
    """pseudo-gradient = reference - snapshot; reference := snapshot; quantise with error feedback, keep
    the old error and the dequantised value; then `Encoded`."""

    seq: int


class Upload(Action, frozen=True):
    """Put the fragments, send `Commit(contribution)`. Harmless to repeat."""

    server: str
    contribution: Contribution


class Forget(Action, frozen=True):
    """Contribution `seq` found its end: drop its dequantised value; if discarded, error feedback := the
    old one."""

    seq: int
    discarded: bool


class Install(Action, frozen=True):
    """Bring the client's copy of the published parameters from `ready.base` to `ready.version`; then
    `Installed`."""

    ready: VersionReady


class OfferBase(Action, frozen=True):
    """base := G_version - dequantised contribution `minus` (None: nothing); tell the ranks.

    `reset`: the ranks drop local progress and all work they hold (what remains theirs is given again);
    `moments`: the optimizer's moments too."""

    version: int
    minus: int | None
    pushes_seen: int
    reset: bool
    moments: bool


class TellStart(Action, frozen=True):
    terms: Terms
    may_push: bool
    """False: a contribution of the ranks before these is still in flight."""


class GiveWork(Action, frozen=True):
    ranges: Ranges


class TellPace(Action, frozen=True):
    inner_steps: int


class TellMayPush(Action, frozen=True):
    pass


class TellStop(Action, frozen=True):
    """Push what there is, then `Leaving`. With 'budget' there is nothing left to push."""

    reason: str


class TellRefused(Action, frozen=True):
    reason: str
    hint: str


class PersistBallot(Action, frozen=True):
    """Sync to this site's disk, then `BallotDurable`. A restarted client hands both to `MemberState`."""

    epoch: int
    candidate: str


class Exit(Action, frozen=True):
    reason: str


AnyAction = (
    Send | Encode | Upload | Forget | Install | OfferBase | TellStart | GiveWork | TellPace |
    TellMayPush | TellStop | TellRefused | PersistBallot | Exit
)  # fmt: skip
