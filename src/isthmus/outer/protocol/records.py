"""Durable events of the server and the book they fold into.

The write-ahead log is a sequence of these records and nothing else decides what the server owes to
anybody: replaying the log gives the same book, and every promise to a site (a grant, an acknowledgement, a
version) is in the book before it is spoken.
"""

from statistics import median

import msgspec
from msgspec.structs import replace

from isthmus.outer.messages import Contribution
from isthmus.outer.ranges import Ranges, intersect, normal, subtract, total, union

HISTORY = 8
"""Versions whose facts (hash, who is merged) are kept for sites that are a little behind."""
NORMS = 33
"""Accepted norms the outlier check looks back on."""
POISON_STRIKES = 3
"""A range that was quarantined this often is not leased again."""


class Record(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


class ServerStarted(Record, frozen=True, kw_only=True):
    """A server serves as `epoch` from here on; `standby` is the replica it must wait for ('' for none)."""

    epoch: int
    standby: str = ""
    voted: bool = False
    """A majority of the sites gave it this epoch (promotion, detaching)."""


class StandbyAttached(Record, frozen=True, kw_only=True):
    name: str


class SiteAdmitted(Record, frozen=True, kw_only=True):
    """Also a new incarnation of a known site: what the old one held returns."""

    site: str
    incarnation: int


class SiteRemoved(Record, frozen=True, kw_only=True):
    site: str
    reason: str
    """'left', 'timeout'"""


class RangeGranted(Record, frozen=True, kw_only=True):
    """`ranges` come from the free ones and from the cursor on."""

    site: str
    ranges: Ranges


class RoundGranted(Record, frozen=True, kw_only=True):
    """strict: the windows of all sites for one round, in one record so that no crash can part them."""

    grants: dict[str, Ranges]


class RangesReturned(Record, frozen=True, kw_only=True):
    site: str
    ranges: Ranges
    reason: str


class ContributionAccepted(Record, frozen=True, kw_only=True):
    """Written and synced with the contribution's bytes: from here on it will be merged exactly once."""

    contribution: Contribution


class ContributionDiscarded(Record, frozen=True, kw_only=True):
    site: str
    incarnation: int
    seq: int
    ranges: Ranges
    """Those of its ranges that are still leased to the site: they return."""
    reason: str


class Merged(Record, frozen=True, kw_only=True):
    """Version `version` = the one before it + these contributions in this order. Its numbers can be
    computed again from the contributions' bytes; `hash` says whether they came out the same."""

    version: int
    contributions: tuple[tuple[str, int, int], ...]
    weights: tuple[float, ...]
    """Dense weight of each contribution: tokens / sqrt(1 + staleness)."""
    share: float
    full: bool
    hash: str


AnyRecord = (
    ServerStarted | StandbyAttached | SiteAdmitted | SiteRemoved | RangeGranted | RoundGranted
    | RangesReturned | ContributionAccepted | ContributionDiscarded | Merged
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyRecord)


def encode_record(record: AnyRecord) -> bytes:
    return _encoder.encode(record)


def decode_record(data: bytes | memoryview) -> AnyRecord:
    return _decoder.decode(data)


class SiteBook(msgspec.Struct, frozen=True, kw_only=True):
    incarnation: int
    admission: int = 1
    """Counts the times it became a member."""
    member: bool = True
    held: Ranges = ()
    """Leased and neither contributed nor returned."""
    grants: int = 0
    last_grant: Ranges = ()
    seq: int = 0
    fate: str = ""
    """Fate of contribution `seq`, the last one decided: 'accepted' or the reason it was discarded."""
    merged: tuple[int, int] = (0, 0)
    """(incarnation, seq) of the last merged contribution."""


class VersionFacts(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    hash: str
    contributors: tuple[str, ...]
    merged: dict[str, tuple[int, int]]


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """The fold of all records. msgspec encodes it as it is, for snapshots."""

    epoch: int = 0
    confirmed: int = 0
    """The last epoch known to have been established: its start was replicated, voted, or needed neither."""
    standby: str = ""
    version: int = 0
    hash: str = ""
    """Hash of the published parameters of `version`; of the first weights before any record."""
    sites: dict[str, SiteBook] = {}
    members: tuple[str, ...] = ()
    """Sites that are in, sorted."""
    free: Ranges = ()
    """Returned ranges, leased again before new ones."""
    cursor: int = 0
    """Samples from here on were never leased."""
    rounds: int = 0
    accepted: tuple[Contribution, ...] = ()
    """Acknowledged, not merged yet."""
    strikes: tuple[Ranges, ...] = ((),) * (POISON_STRIKES - 1)
    """Ranges quarantined once, twice, ..."""
    poisoned: Ranges = ()
    merged_samples: int = 0
    norms: tuple[float, ...] = ()
    history: tuple[VersionFacts, ...] = ()
    """Facts of the last versions, newest last."""
    length: int = 0
    """Number of records folded."""

    def norm_median(self) -> float:
        return median(self.norms) if self.norms else 0.0


def fold(book: Book, record: AnyRecord) -> Book:
    """The book after one more record. Pure; a record that does not fit the book is our own bug."""
    book = _FOLDS[type(record)](book, record)
    # a record is only written when those before it are replicated, so it confirms the epoch it was written in
    confirmed = book.confirmed if type(record) is ServerStarted else book.epoch
    return replace(book, length=book.length + 1, confirmed=confirmed)


def _with_site(book: Book, name: str, site: SiteBook, free: Ranges | None = None) -> Book:
    sites = {**book.sites, name: site}
    return replace(book, sites=sites, free=book.free if free is None else free)


def _started(book: Book, record: ServerStarted) -> Book:
    assert record.epoch > book.epoch, "an epoch number is used once"
    established = record.voted or not record.standby
    confirmed = record.epoch if established else book.confirmed
    return replace(book, epoch=record.epoch, standby=record.standby, confirmed=confirmed)


def _attached(book: Book, record: StandbyAttached) -> Book:
    return replace(book, standby=record.name)


def _admitted(book: Book, record: SiteAdmitted) -> Book:
    known = book.sites.get(record.site)
    book = replace(book, members=tuple(sorted({*book.members, record.site})))
    if known is None:
        return _with_site(book, record.site, SiteBook(incarnation=record.incarnation))
    if known.incarnation == record.incarnation:
        again = replace(known, member=True, admission=known.admission + 1)
        return _with_site(book, record.site, again)
    fresh = SiteBook(incarnation=record.incarnation, admission=known.admission + 1, merged=known.merged)
    return _with_site(book, record.site, fresh, free=union(book.free, known.held))


def _removed(book: Book, record: SiteRemoved) -> Book:
    site = book.sites[record.site]
    gone = replace(site, member=False, held=())
    book = replace(book, members=tuple(name for name in book.members if name != record.site))
    return _with_site(book, record.site, gone, free=union(book.free, site.held))


def _granted(book: Book, record: RangeGranted) -> Book:
    site = book.sites[record.site]
    site = replace(
        site, held=union(site.held, record.ranges), grants=site.grants + 1, last_grant=record.ranges
    )
    cursor = max(book.cursor, record.ranges[-1][1])
    free = subtract(book.free, record.ranges)
    return replace(_with_site(book, record.site, site, free=free), cursor=cursor)


def _round_granted(book: Book, record: RoundGranted) -> Book:
    for site in sorted(record.grants):
        if record.grants[site]:
            book = _granted(book, RangeGranted(site=site, ranges=record.grants[site]))
    return replace(book, rounds=book.rounds + 1)


def _returned(book: Book, record: RangesReturned) -> Book:
    site = book.sites[record.site]
    back = intersect(site.held, record.ranges)
    site = replace(site, held=subtract(site.held, back))
    return _with_site(book, record.site, site, free=union(book.free, back))


def _accepted(book: Book, record: ContributionAccepted) -> Book:
    contribution = record.contribution
    site = book.sites[contribution.site]
    held = subtract(site.held, contribution.ranges)
    site = replace(site, held=held, seq=contribution.seq, fate="accepted")
    norms = (*book.norms[-(NORMS - 1) :], contribution.norm)
    book = _with_site(book, contribution.site, site)
    return replace(book, accepted=(*book.accepted, contribution), norms=norms)


def _discarded(book: Book, record: ContributionDiscarded) -> Book:
    site = book.sites[record.site]
    back = intersect(site.held, record.ranges)
    site = replace(site, held=subtract(site.held, back), seq=record.seq, fate=record.reason)
    if record.reason == "quarantined":
        book, back = _strike(book, back)
    return _with_site(book, record.site, site, free=union(book.free, back))


def _strike(book: Book, ranges: Ranges) -> tuple[Book, Ranges]:
    """Counts one quarantine of these ranges: (book, those that may be leased again)."""
    levels: list[Ranges] = []
    coming = ranges
    for level in book.strikes:
        coming = subtract(coming, level)
    for level in book.strikes:
        hit = intersect(level, ranges)
        levels.append(union(subtract(level, hit), coming))
        coming = hit
    poisoned = union(book.poisoned, coming)
    return replace(book, strikes=tuple(levels), poisoned=poisoned), subtract(ranges, coming)


def _merged(book: Book, record: Merged) -> Book:
    assert record.version == book.version + 1, "versions rise one by one"
    ids = set(record.contributions)
    merged = [contribution for contribution in book.accepted if contribution.id in ids]
    assert len(merged) == len(ids), "only accepted contributions are merged, and once"
    sites = dict(book.sites)
    samples = 0
    for contribution in merged:
        site = sites[contribution.site]
        latest = max(site.merged, (contribution.incarnation, contribution.seq))
        sites[contribution.site] = replace(site, merged=latest)
        samples += total(contribution.ranges)
    facts = VersionFacts(
        version=record.version,
        hash=record.hash,
        contributors=tuple(sorted({contribution.site for contribution in merged})),
        merged={name: site.merged for name, site in sites.items()},
    )
    return replace(
        book,
        version=record.version,
        hash=record.hash,
        sites=sites,
        accepted=tuple(c for c in book.accepted if c.id not in ids),
        merged_samples=book.merged_samples + samples,
        history=(*book.history[-(HISTORY - 1) :], facts),
    )


_FOLDS = {
    ServerStarted: _started,
    StandbyAttached: _attached,
    SiteAdmitted: _admitted,
    SiteRemoved: _removed,
    RangeGranted: _granted,
    RoundGranted: _round_granted,
    RangesReturned: _returned,
    ContributionAccepted: _accepted,
    ContributionDiscarded: _discarded,
    Merged: _merged,
}


def replay(records: list[AnyRecord], book: Book) -> Book:
    """Folds a log that begins after this book (of the first weights, or a snapshot's)."""
    for record in records:
        book = fold(book, record)
    return book


def check(book: Book) -> None:
    """Every sample below the cursor is in exactly one place: free, held, accepted, merged or poisoned."""
    parts = [book.free, book.poisoned, *(site.held for site in book.sites.values())]
    parts += [contribution.ranges for contribution in book.accepted]
    flat = [piece for part in parts for piece in part]
    counted = sum(total(part) for part in parts)
    assert total(normal(flat)) == counted, "a sample is in two places"
    assert counted + book.merged_samples == book.cursor, "a sample is nowhere"
