"""`apply(state, event) -> state`: what each event changes at the server."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from isthmus.outer.protocol.begun import issued
from isthmus.outer.protocol.changes import with_live, with_peer
from isthmus.outer.protocol.hear import arrived, received
from isthmus.outer.protocol.records import (
    AnyRecord,
    Book,
    ContributionAccepted,
    ContributionDiscarded,
    Merged,
    RangesReturned,
    ServerStarted,
    SiteAdmitted,
    SiteRemoved,
    fold,
)
from isthmus.outer.protocol.rounds import expected
from isthmus.outer.protocol.state import (
    AnyEvent,
    Arrived,
    Issued,
    Live,
    MergeDone,
    Peer,
    PeerDown,
    PeerUp,
    Persisted,
    PersistFailed,
    Received,
    ReplicaDown,
    ReplicaHeard,
    ServerConfig,
    ServerState,
    StopAsked,
    Tick,
)
from isthmus.outer.ranges import subtract

LATENESS = 32
"""Arrivals after the quorum that the grace period is derived from."""


def start(config: ServerConfig, book: Book, now_s: float, delta_floor: int | None = None) -> ServerState:
    """State of a process that has just replayed `book`. It serves nobody before its new epoch is durable.

    `delta_floor`: the version above which the executor has the down-link deltas (None: only from now on)."""
    floor = book.version if delta_floor is None else delta_floor
    peers = {name: Peer(heard_s=now_s) for name, site in book.sites.items() if site.member}
    live = Live(now_s=now_s, peers=peers, delta_floor=floor, published=book.version, replica_heard_s=now_s)
    return ServerState(config, book, live)


def promote(config: ServerConfig, book: Book, now_s: float, epoch: int) -> ServerState:
    """A standby that was voted `epoch` (or told by hand) takes over from its replica of the log."""
    state = start(config, book, now_s)
    return replace(state, live=replace(state.live, start_epoch=epoch))


def apply(state: ServerState, event: AnyEvent) -> ServerState:
    return _HANDLERS[type(event)](state, event)


def _tick(state: ServerState, event: Tick) -> ServerState:
    live = state.live
    gap = event.now_s - live.now_s
    if gap <= max(2.0, state.config.site_timeout_s / 4):
        return _quorum_clock(with_live(state, now_s=max(event.now_s, live.now_s)))
    # this process slept, so nobody else was silent: what they said is still unread
    peers = {name: replace(peer, heard_s=peer.heard_s + gap) for name, peer in live.peers.items()}
    return with_live(state, now_s=event.now_s, peers=peers, replica_heard_s=live.replica_heard_s + gap)


def _up(state: ServerState, event: PeerUp) -> ServerState:
    return with_peer(
        state, event.site, up=True, welcomed=False, hello=None, want=None, heard_s=state.live.now_s
    )


def _down(state: ServerState, event: PeerDown) -> ServerState:
    return with_peer(state, event.site, up=False, welcomed=False, hello=None, want=None)


def _replica_heard(state: ServerState, event: ReplicaHeard) -> ServerState:
    live, book = state.live, state.book
    if event.epoch > book.epoch:
        return with_live(state, fenced=max(live.fenced, event.epoch))
    if book.standby and event.name != book.standby:
        return state
    # a replica that is not attached counts only once its log reaches into this epoch
    behind = event.name != book.standby and event.epoch < book.epoch
    fresh = not live.replica_up or live.replica_name != event.name
    return with_live(
        state,
        replica_name=event.name,
        replica_up=True,
        replica_heard_s=live.now_s,
        replica_length=0 if behind else min(event.length, book.length),
        replica_told=(-1, -1) if fresh else live.replica_told,
    )


def _replica_down(state: ServerState, event: ReplicaDown) -> ServerState:
    if event.name != state.live.replica_name:
        return state
    return with_live(state, replica_up=False)


def _persist_failed(state: ServerState, event: PersistFailed) -> ServerState:
    retry_after_s = state.live.now_s + state.config.retry_s
    return with_live(state, persisting=False, disk_error=event.reason, retry_after_s=retry_after_s)


def _persisted(state: ServerState, event: Persisted) -> ServerState:
    book = state.book
    for record in event.records:
        book = fold(book, record)
    state = ServerState(state.config, book, replace(state.live, persisting=False, disk_error=""))
    for record in event.records:
        state = _noted(state, record)
    return _quorum_clock(state)


def _quorum_clock(state: ServerState) -> ServerState:
    """Starts the grace period when enough sites have contributed."""
    live, book = state.live, state.book
    if live.quorum_s is not None or live.merging is not None or not book.accepted:
        return state
    needed = max(1, min(state.config.quorum, len(expected(state))))
    if len({contribution.site for contribution in book.accepted}) < needed:
        return state
    return with_live(state, quorum_s=live.now_s)


def _noted(state: ServerState, record: AnyRecord) -> ServerState:
    """What a durable record changes in the volatile half."""
    match record:
        case ServerStarted():
            return with_live(state, started=True, votes=(), votes_epoch=0)
        case SiteAdmitted():
            return with_peer(state, record.site, heard_s=state.live.now_s)
        case SiteRemoved():
            peer = state.live.peers.get(record.site, Peer())
            gone = replace(peer, welcomed=False, want=None, goodbye="", lost=(), arrived=None)
            return with_live(state, peers={**state.live.peers, record.site: gone})
        case RangesReturned():
            return with_peer(
                state, record.site, lost=subtract(state.live.peers[record.site].lost, record.ranges)
            )
        case ContributionAccepted():
            return _note_accepted(state, record.contribution.site)
        case ContributionDiscarded():
            return with_peer(state, record.site, arrived=None, fate_due=True)
        case Merged():
            return with_live(state, merging=None, merged_hash=None)
        case _:
            return state


def _note_accepted(state: ServerState, site: str) -> ServerState:
    """Keeps the quorum's clock: since when enough contributions wait, and how late the others come."""
    state = with_peer(state, site, arrived=None, fate_due=True)
    live = state.live
    late_s = None
    if live.quorum_s is not None:
        late_s = live.now_s - live.quorum_s
    elif site in live.missed and live.last_quorum_s is not None:
        late_s = live.now_s - live.last_quorum_s
    if late_s is not None:
        state = with_live(state, lateness_s=(*live.lateness_s[-(LATENESS - 1) :], late_s))
    return state


def _merge_done(state: ServerState, event: MergeDone) -> ServerState:
    merging = state.live.merging
    if merging is None or merging.version != event.version:
        return state
    return with_live(state, merged_hash=event.hash)


def _stop_asked(state: ServerState, event: StopAsked) -> ServerState:
    return with_live(state, stopping=state.live.stopping or event.reason)


_HANDLERS: dict[type[AnyEvent], Callable[[ServerState, Any], ServerState]] = {
    Tick: _tick,
    PeerUp: _up,
    PeerDown: _down,
    Received: received,
    Arrived: arrived,
    Issued: issued,
    Persisted: _persisted,
    PersistFailed: _persist_failed,
    MergeDone: _merge_done,
    StopAsked: _stop_asked,
    ReplicaHeard: _replica_heard,
    ReplicaDown: _replica_down,
}
