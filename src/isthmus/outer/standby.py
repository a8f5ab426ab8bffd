"""A standby server as a pure state machine: it keeps a replica of the primary's log and may take over by
vote.

Once attached (`book.standby` is its name) nothing leaves the primary that this replica does not hold, so a
standby that a majority of the member sites votes for continues exactly where the primary was heard last.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from isthmus.outer.messages import Replica, VoteRequest
from isthmus.outer.protocol.epoch import majority
from isthmus.outer.protocol.records import AnyRecord, Book, replay


class StandbyState(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    book: Book = Book()
    """Fold of the replica."""
    timeout_s: float = 10.0
    """Silence of the primary after which the sites are asked."""
    retry_s: float = 1.0
    now_s: float = 0.0
    heard_s: float = 0.0
    primary_up: bool = False
    peers: tuple[str, ...] = ()
    votes: tuple[str, ...] = ()
    votes_epoch: int = 0
    asked_s: float = -1e9
    store: "Store | None" = None
    """What the primary sent and is not written yet."""
    storing: bool = False
    copied: bool = False
    """On this connection the replica was made anew from the primary's folder."""
    report_due: bool = False
    reported_s: float = -1e9
    promoted: bool = False


# ---- events


class Event(msgspec.Struct, frozen=True):
    pass


class Tick(Event, frozen=True):
    now_s: float


class PrimaryUp(Event, frozen=True):
    pass


class PrimaryDown(Event, frozen=True):
    pass


class PrimarySent(Event, frozen=True):
    """Records from number `start` on, decoded; their contributions' bytes are here too. None of them: a sign
    of life."""

    epoch: int
    start: int
    records: tuple[AnyRecord, ...]


class Copied(Event, frozen=True):
    """DURABLE. The replica was replaced, as `replaceable` allowed it, by the primary's snapshot and what its
    log holds after it; `book` is the fold of that."""

    book: Book


class Stored(Event, frozen=True):
    """DURABLE. These records are appended to the log and synced."""

    records: tuple[AnyRecord, ...]


class StoreFailed(Event, frozen=True):
    reason: str


class PeerUp(Event, frozen=True):
    site: str


class PeerDown(Event, frozen=True):
    site: str


class Voted(Event, frozen=True):
    site: str
    epoch: int
    candidate: str


class Issued(Event, frozen=True):
    actions: tuple["AnyAction", ...]


AnyEvent = (
    Tick | PrimaryUp | PrimaryDown | PrimarySent | Copied | Stored | StoreFailed | PeerUp | PeerDown | Voted |
    Issued
)  # fmt: skip


# ---- actions


class Action(msgspec.Struct, frozen=True):
    pass


class Store(Action, frozen=True):
    """Append the records (the first has number `start`) and sync, then `Stored` with those that were."""

    start: int
    records: tuple[AnyRecord, ...]


class Report(Action, frozen=True):
    """To the primary."""

    replica: Replica


class Ask(Action, frozen=True):
    site: str
    request: VoteRequest


class Promote(Action, frozen=True):
    """Serve as `epoch`: `protocol.promote(config, book, now_s, epoch)` on this log. No more reports to the
    primary."""

    epoch: int


AnyAction = Store | Report | Ask | Promote


def apply(state: StandbyState, event: AnyEvent) -> StandbyState:
    return _HANDLERS[type(event)](state, event)


def _tick(state: StandbyState, event: Tick) -> StandbyState:
    gap = event.now_s - state.now_s
    slept = gap if gap > max(2.0, state.timeout_s / 2) else 0.0
    return replace(state, now_s=max(state.now_s, event.now_s), heard_s=state.heard_s + slept)


def _primary_up(state: StandbyState, event: PrimaryUp) -> StandbyState:
    return replace(state, primary_up=True, report_due=True, copied=False, heard_s=state.now_s)


def _primary_down(state: StandbyState, event: PrimaryDown) -> StandbyState:
    return replace(state, primary_up=False, report_due=False)


def attached(state: StandbyState) -> bool:
    """Whether the primary may not speak without this replica, as far as the replica knows."""
    return state.book.standby == state.name


def replaceable(state: StandbyState, epoch: int) -> bool:
    """Whether the primary of this epoch may replace the replica: an attached one is promised to the sites,
    until they voted for an epoch without it."""
    free = state.store is None and not state.promoted
    return free and (not attached(state) or epoch > state.book.epoch)


def _primary_sent(state: StandbyState, event: PrimarySent) -> StandbyState:
    state = replace(state, heard_s=state.now_s)
    if not event.records or state.store is not None or state.promoted:
        return state  # what is missed now is sent again
    length = state.book.length
    if event.start > length or not (attached(state) or state.copied):
        return replace(state, report_due=True)
    fresh = event.records[length - event.start :]
    return replace(state, store=Store(length, fresh)) if fresh else replace(state, report_due=True)


def _copied(state: StandbyState, event: Copied) -> StandbyState:
    return replace(state, book=event.book, copied=True, report_due=True, heard_s=state.now_s)


def _stored(state: StandbyState, event: Stored) -> StandbyState:
    book = replay(list(event.records), state.book)
    return replace(state, book=book, store=None, storing=False, report_due=True)


def _store_failed(state: StandbyState, event: StoreFailed) -> StandbyState:
    return replace(state, store=None, storing=False)


def _peer_up(state: StandbyState, event: PeerUp) -> StandbyState:
    return replace(state, peers=(*(peer for peer in state.peers if peer != event.site), event.site))


def _peer_down(state: StandbyState, event: PeerDown) -> StandbyState:
    return replace(state, peers=tuple(peer for peer in state.peers if peer != event.site))


def _voted(state: StandbyState, event: Voted) -> StandbyState:
    """A vote stays good: whoever gave it gives none to another server for this epoch."""
    mine = event.candidate == state.name and event.epoch == state.votes_epoch
    return (
        state if not mine or event.site in state.votes else replace(state, votes=(*state.votes, event.site))
    )


def _issued(state: StandbyState, event: Issued) -> StandbyState:
    for action in event.actions:
        match action:
            case Store():
                state = replace(state, storing=True)
            case Report():
                state = replace(state, report_due=False, reported_s=state.now_s)
            case Ask():
                votes = state.votes if state.votes_epoch == action.request.epoch else ()
                state = replace(state, votes=votes, votes_epoch=action.request.epoch, asked_s=state.now_s)
            case Promote():
                state = replace(state, promoted=True)
    return state


_HANDLERS: dict[type[AnyEvent], Callable[[StandbyState, Any], StandbyState]] = {
    Tick: _tick,
    PrimaryUp: _primary_up,
    PrimaryDown: _primary_down,
    PrimarySent: _primary_sent,
    Copied: _copied,
    Stored: _stored,
    StoreFailed: _store_failed,
    PeerUp: _peer_up,
    PeerDown: _peer_down,
    Voted: _voted,
    Issued: _issued,
}


def plan(state: StandbyState) -> list[AnyAction]:
    """The executor's loop is that of `protocol.plan`."""
    if state.promoted:
        return []
    return _store(state) or _promote(state) or _report(state) or _ask(state)


def _store(state: StandbyState) -> list[AnyAction]:
    return [state.store] if state.store is not None and not state.storing else []


def _report(state: StandbyState) -> list[AnyAction]:
    if not state.primary_up or not (state.report_due or state.now_s - state.reported_s >= state.retry_s):
        return []
    length = state.book.length if attached(state) or state.copied else 0
    return [Report(Replica(name=state.name, epoch=state.book.epoch, length=length))]


def _silent(state: StandbyState) -> bool:
    quiet = state.now_s - state.heard_s >= state.timeout_s
    return quiet and attached(state) and not state.storing


def _promote(state: StandbyState) -> list[AnyAction]:
    epoch = state.book.epoch + 1
    voters = [site for site in state.votes if site in state.book.members]
    enough = state.votes_epoch == epoch and len(voters) >= majority(len(state.book.members))
    return [Promote(epoch)] if enough and _silent(state) else []


def _ask(state: StandbyState) -> list[AnyAction]:
    if not _silent(state) or state.now_s - state.asked_s < state.retry_s:
        return []
    epoch = state.book.epoch + 1
    request = VoteRequest(epoch=epoch, candidate=state.name, log_epoch=state.book.epoch)
    voted = state.votes if state.votes_epoch == epoch else ()
    return [Ask(site, request) for site in state.peers if site in state.book.members and site not in voted]
