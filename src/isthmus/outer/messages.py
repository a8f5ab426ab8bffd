"""What servers and site clients say to each other: frozen tagged structs, msgpack on the wire.

Everything a server says carries its `epoch`; a site ignores whatever comes from an epoch lower than the
highest it has seen. Everything a site says about its work carries its `incarnation` (one number per start
of the client, rising).
"""

from typing import Literal

import msgspec

from isthmus.errors import InputError
from isthmus.outer.ranges import Ranges


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What server and site must have in common before a site may join."""

    model_hash: str = ""
    """Hash of names, shapes and initial values."""
    data_hash: str = ""
    code_version: str = ""
    layout_hash: str = ""
    """Hash of the cut of tensors into fragments."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The run's settings as the server has them; a site uses these, never its own."""

    mode: Literal["elastic", "strict"] = "elastic"
    inner_steps: int = 50
    """H of the fastest site."""
    delay: int = -1
    """Inner steps between a push and taking up its result (strict: 0..H); -1: as soon as it is there."""
    codec: str = "int8"
    down_codec: str = "int8"
    block_size: int = 128
    num_fragments: int = 1
    budget: int = 0
    """Samples in the whole run."""
    batch_size: int = 1
    """Samples in one inner step of a site, unless `ServerConfig.batch_sizes` names another for it."""
    outage_reserve_s: float = 60.0
    heartbeat_s: float = 1.0


class Fragment(msgspec.Struct, frozen=True, gc=False):
    """One bulk transfer that belongs to a contribution: its transport key, size in bytes and checksum."""

    key: str
    size: int
    hash: str


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """A pseudo-gradient and the sample ranges it stands for. Named by (site, incarnation, seq)."""

    site: str
    incarnation: int
    seq: int
    admission: int = 0
    """The site's membership (see `Welcome`) its ranges were leased in."""
    base_version: int
    """The published version the site's reference stood on."""
    ranges: Ranges
    tokens: int
    steps: int
    group_tokens: tuple[int, ...] = ()
    """Tokens routed to each expert group since the last push; empty for a dense model."""
    norm: float = 0.0
    fragments: tuple[Fragment, ...] = ()

    @property
    def id(self) -> tuple[str, int, int]:
        return self.site, self.incarnation, self.seq


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


# ---- site -> server


class Hello(Message, frozen=True, kw_only=True):
    """First on every connection, and the answer to `Rejoin`."""

    site: str
    incarnation: int
    session: int
    """Counts the Hellos of this incarnation."""
    identity: Identity
    epoch: int
    """Highest epoch this site has seen."""
    version: int
    """Version the client holds in full; -1: none."""
    version_hash: str
    lost: Ranges = ()
    """Ranges whose progress is gone and that should be leased again."""


class WantWork(Message, frozen=True, kw_only=True):
    incarnation: int
    grants: int
    """Number of grants this incarnation has received; the server ignores a wish that is older than its
    last grant."""
    samples: int
    step_rate: float
    """Inner steps per second, 0 if not known yet."""
    up_s: float
    """Time the last contribution took on its way up, and (`down_s`) the last version on its way down."""
    down_s: float


class Heartbeat(Message, frozen=True, kw_only=True):
    incarnation: int
    epoch: int
    step_rate: float
    up_s: float
    down_s: float


class Commit(Message, frozen=True, kw_only=True):
    """All fragments named in it are on their way under their keys; the contribution counts when they are
    there."""

    contribution: Contribution


class Lost(Message, frozen=True, kw_only=True):
    incarnation: int
    admission: int
    ranges: Ranges


class Applied(Message, frozen=True, kw_only=True):
    """The client holds `version`, and its hash was the published one."""

    incarnation: int
    version: int


class WantRefresh(Message, frozen=True, kw_only=True):
    """A version is missing or came out with another hash: send the newest in full."""

    incarnation: int


class Goodbye(Message, frozen=True, kw_only=True):
    incarnation: int
    reason: str


class Fenced(Message, frozen=True, kw_only=True):
    """To a server of a lower epoch: there is a higher one, step down."""

    epoch: int


class Seed(Message, frozen=True, kw_only=True):
    """The initial weights, for a server that asked: an encoded `Layout`; the fragments travel as
    `seed/<fragment>`."""

    layout: bytes


class VoteGranted(Message, frozen=True, kw_only=True):
    epoch: int
    candidate: str


# ---- server -> site


class Welcome(Message, frozen=True, kw_only=True):
    epoch: int
    incarnation: int
    session: int
    """Of the Hello it answers; a site takes one answer to each."""
    admission: int
    """Counts the site's memberships: leases of an earlier one are void."""
    terms: Terms
    batch_size: int
    version: int
    window: int
    """H_s: inner steps of this site between two pushes."""
    grants: int
    held: Ranges
    """Everything leased to this incarnation and not yet contributed."""
    seq: int
    """The last contribution of this incarnation that was decided, and its fate: 'accepted', a reason, or
    ''."""
    fate: str


class Refused(Message, frozen=True, kw_only=True):
    epoch: int
    incarnation: int = 0
    """Whose Hello it answers; 0: whoever is on this connection."""
    reason: str
    hint: str


class Grant(Message, frozen=True, kw_only=True):
    epoch: int
    number: int
    ranges: Ranges
    window: int


class Accepted(Message, frozen=True, kw_only=True):
    """Durable: this contribution will be merged, whatever happens."""

    epoch: int
    incarnation: int
    seq: int


class Discarded(Message, frozen=True, kw_only=True):
    epoch: int
    incarnation: int
    seq: int
    reason: str
    """'stale', 'lease_lost' or 'quarantined'."""


class VersionReady(Message, frozen=True, kw_only=True):
    """The fragments of this version are on their way (keys: `version_key`)."""

    epoch: int
    version: int
    base: int
    """The version the deltas are taken against; -1: the fragments hold the parameters themselves."""
    hash: str
    """Hash of the published parameters after it."""
    contributors: tuple[str, ...]
    merged: dict[str, tuple[int, int]]
    """Per site: (incarnation, seq) of its last contribution that is in this version."""
    window: int


class SeedWanted(Message, frozen=True, kw_only=True):
    """This server has no weights yet: send yours."""


class Rejoin(Message, frozen=True, kw_only=True):
    """The server does not count this site as a member (any more): say Hello again."""

    epoch: int


class Stop(Message, frozen=True, kw_only=True):
    epoch: int
    reason: str
    """'budget': all samples are merged. 'checkpoint': push what there is, then leave."""


class VoteRequest(Message, frozen=True, kw_only=True):
    """A server asks for `epoch`. `log_epoch`: the epoch its log ends in."""

    epoch: int
    candidate: str
    log_epoch: int


# ---- between servers (records travel as their encoded bytes)


class Replica(Message, frozen=True, kw_only=True):
    """Standby -> primary, on every connection and after every write: records it has fsynced, and its log's
    epoch."""

    name: str
    epoch: int
    length: int
    copy: str = ""
    """The number a copy of the server's folder would have, if the server finds that one is needed."""


class CopiedFile(msgspec.Struct, frozen=True, gc=False):
    """A file of the server's folder: its name there, and how much of it belongs to the copy."""

    name: str
    size: int


class Copy(Message, frozen=True, kw_only=True):
    """Primary -> standby, which has nothing that could be continued: these files are on their way under
    `copy_key`; together they are the server's folder at one moment. `specs`: name -> text of run.yaml and the
    like."""

    epoch: int
    number: str
    """Of no other copy."""
    files: tuple[CopiedFile, ...]
    specs: dict[str, bytes]


class Records(Message, frozen=True, kw_only=True):
    """Primary -> standby: the encoded records from number `start` on; the fragments of contributions accepted
    in them are on their way under their keys. Without records a sign of life."""

    epoch: int
    start: int
    records: tuple[bytes, ...]


ToServer = (
    Hello | WantWork | Heartbeat | Commit | Lost | Applied | WantRefresh | Goodbye | Fenced |
    VoteGranted | Seed
)  # fmt: skip
ToSite = (
    Welcome | Refused | Grant | Accepted | Discarded | VersionReady | Rejoin | Stop | VoteRequest | SeedWanted
)  # fmt: skip
BetweenServers = Replica | Copy | Records | Stop
AnyMessage = ToServer | ToSite | BetweenServers


def version_key(message: VersionReady, fragment: int) -> str:
    """Transport key of one fragment of a version on its way down."""
    kind = "full" if message.base < 0 else "delta"
    return f"{kind}/{message.epoch}/{message.version}/{fragment}"


def copy_key(number: str, name: str) -> str:
    """Transport key of one file on its way to the standby."""
    return f"copy/{number}/{name}"


def contribution_key(site: str, incarnation: int, seq: int, fragment: int) -> str:
    """Transport key of one fragment of a contribution on its way up."""
    return f"up/{site}/{incarnation}/{seq}/{fragment}"


def encode(message: Message) -> bytes:
    return msgspec.msgpack.encode(message)


def decode(data: bytes | memoryview, where: str = "") -> AnyMessage:
    """Raises InputError if the bytes are no message (another code version, or no isthmus at all)."""
    try:
        return msgspec.msgpack.decode(data, type=AnyMessage)
    except msgspec.MsgspecError as error:
        raise InputError(
            f"control message not understood: {error}",
            where=where,
            hint="run the same isthmus version on both sides",
        ) from error
