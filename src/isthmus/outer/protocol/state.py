"""What the server machine knows, the events it takes and the actions it asks for.

`ServerState = config + book + live`. The book is durable (see `records`); `live` is what a crash may take:
who is connected, what was already said, clocks. Volatile events change only `live`; the book changes only
by `Persisted`.
"""

import msgspec

from isthmus.outer.messages import Contribution, Hello, Identity, Message, Terms, WantWork
from isthmus.outer.protocol.records import AnyRecord, Book
from isthmus.outer.ranges import Ranges


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    name: str = "primary"
    """Also its name as a candidate for an epoch."""
    terms: Terms = Terms()
    identity: Identity = Identity()
    sites: tuple[str, ...] = ()
    """The fleet. strict waits for all of them; elastic takes any authenticated site."""
    batch_sizes: dict[str, int] = {}
    """Samples in one inner step of a site, where it is not `terms.batch_size`."""
    quorum: int = 1
    staleness_max: int = 4
    outlier_factor: float = 10.0
    outlier_after: int = 5
    """Accepted contributions before the outlier check starts."""
    site_timeout_s: float = 30.0
    standby_timeout_s: float = 10.0
    """Silence of the standby after which the sites are asked to let it go."""
    retry_s: float = 1.0
    """Wait before a refused write is tried again, and between two requests for votes."""

    def batch_size(self, site: str) -> int:
        return self.batch_sizes.get(site, self.terms.batch_size)


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One site as this process knows it."""

    up: bool = False
    welcomed: bool = False
    hello: Hello | None = None
    """Not answered yet."""
    outdated: int = 0
    """An incarnation older than the one that joined, to be refused."""
    session: int = 0
    incarnation: int = 0
    heard_s: float = 0.0
    step_rate: float = 0.0
    up_s: float = 0.0
    down_s: float = 0.0
    want: WantWork | None = None
    grants_sent: int = 0
    fate_due: bool = False
    refresh: bool = False
    sent_version: int = -1
    applied_version: int = -1
    stop_sent: bool = False
    rejoin_due: bool = False
    vote_asked_s: float = -1e9
    fence_due: bool = False
    arrived: "Arrived | None" = None
    """A complete contribution that waits for its fate."""
    lost: Ranges = ()
    goodbye: str = ""


class Live(msgspec.Struct, frozen=True, kw_only=True):
    now_s: float = 0.0
    started: bool = False
    """This process has made its epoch durable."""
    start_epoch: int = 0
    """The epoch a promotion was voted; 0: the next one."""
    peers: dict[str, Peer] = {}
    persisting: bool = False
    retry_after_s: float = -1e9
    disk_error: str = ""
    merging: "Merge | None" = None
    merged_hash: str | None = None
    delta_floor: int = 0
    """Deltas to versions above this one are at hand."""
    published: int = 0
    quorum_s: float | None = None
    """Since when a quorum of contributions waits."""
    last_quorum_s: float | None = None
    missed: tuple[str, ...] = ()
    """Sites the last merge did not wait for."""
    lateness_s: tuple[float, ...] = ()
    stopping: str = ""
    finished: bool = False
    fenced: int = 0
    """An epoch that another server was seen in, not below this one's."""
    stepped_down: bool = False
    replica_length: int = -1
    """Records the standby is known to hold; -1: not connected since this process started."""
    replica_told: tuple[int, int] = (-1, -1)
    """(start, end) of the records last sent to it."""
    replica_heard_s: float = 0.0
    replica_told_s: float = -1e9
    replica_up: bool = False
    replica_name: str = ""
    votes: tuple[str, ...] = ()
    votes_epoch: int = 0


class ServerState(msgspec.Struct, frozen=True):
    config: ServerConfig
    book: Book
    live: Live


# ---- events


class Event(msgspec.Struct, frozen=True):
    pass


class Tick(Event, frozen=True):
    """Time passes. At least every second; a gap larger than that counts as this server's own absence."""

    now_s: float


class PeerUp(Event, frozen=True):
    site: str


class PeerDown(Event, frozen=True):
    site: str


class Received(Event, frozen=True):
    """A control message from the authenticated site `site`."""

    site: str
    message: Message


class Arrived(Event, frozen=True):
    """Commit and all fragments are here, checksums right. `finite` and `norm` are what the server itself
    found."""

    site: str
    contribution: Contribution
    finite: bool
    norm: float


class Issued(Event, frozen=True):
    """The executor has begun these actions (a Send: handed to the connection)."""

    actions: tuple["Action", ...]


class Persisted(Event, frozen=True):
    """DURABLE. The records (and the bytes of accepted contributions) are written and synced."""

    records: tuple[AnyRecord, ...]


class PersistFailed(Event, frozen=True):
    reason: str


class MergeDone(Event, frozen=True):
    version: int
    hash: str


class StopAsked(Event, frozen=True):
    reason: str


class ReplicaHeard(Event, frozen=True):
    """From a standby: it holds `length` records of a log that ends in `epoch`."""

    name: str
    epoch: int
    length: int


class ReplicaDown(Event, frozen=True):
    name: str


AnyEvent = (
    Tick | PeerUp | PeerDown | Received | Arrived | Issued | Persisted | PersistFailed |
    MergeDone | StopAsked | ReplicaHeard | ReplicaDown
)  # fmt: skip


# ---- actions


class Action(msgspec.Struct, frozen=True):
    pass


class Persist(Action, frozen=True):
    """Append to the log and sync, then `Persisted`; bytes of an accepted contribution or of version 0
    first. Else `PersistFailed`. Either all records or none may survive a crash in between, or any prefix:
    each record stands for itself."""

    records: tuple[AnyRecord, ...]


class Send(Action, frozen=True):
    site: str
    message: Message


class Merge(Action, frozen=True):
    """Compute version `version` from contributions in this order; then `MergeDone`. Nothing is promised
    yet."""

    version: int
    contributions: tuple[Contribution, ...]
    weights: tuple[float, ...]
    staleness: tuple[int, ...]
    share: float
    """a = contributing sites / live sites."""
    full: bool


class Publish(Action, frozen=True):
    """Version is durable: journal it, keep its delta at hand, take a snapshot when one is due."""

    version: int
    epoch: int


class Replicate(Action, frozen=True):
    """Send the standby the records from number `start` to `end`, with the bytes of accepted contributions;
    none of them is a sign of life."""

    name: str
    start: int
    end: int


class StepDown(Action, frozen=True):
    """Another server holds `epoch`: close the port and leave."""

    epoch: int


class Finish(Action, frozen=True):
    """The run is over: last snapshot, journal, leave."""

    reason: str


AnyAction = Persist | Send | Merge | Publish | Replicate | StepDown | Finish
