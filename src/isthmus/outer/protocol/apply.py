"""`apply(state, event) -> state`: what each event changes. Messages are idempotent: sent twice or late
they do no harm."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from isthmus.outer.messages import (
    Accepted,
    Applied,
    Discarded,
    Fenced,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
    InitWanted,
    Lost,
    Message,
    Refused,
    Rejoin,
    Stop,
    VersionReady,
    VoteGranted,
    VoteRequest,
    WantRefresh,
    WantWork,
    Welcome,
)
from isthmus.outer.protocol.epoch import silenced
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
    Finish,
    InitArrived,
    Issued,
    Live,
    Merge,
    MergeDone,
    Peer,
    PeerDown,
    PeerUp,
    Persist,
    Persisted,
    PersistFailed,
    Publish,
    Received,
    ReplicaDown,
    ReplicaHeard,
    Replicate,
    Send,
    ServerConfig,
    ServerState,
    StepDown,
    StopAsked,
    Tick,
)
from isthmus.outer.ranges import intersect, subtract, union

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


def _live(state: ServerState, **changes: Any) -> ServerState:
    return ServerState(state.config, state.book, replace(state.live, **changes))


def _peer(state: ServerState, site: str, **changes: Any) -> ServerState:
    peers = state.live.peers
    peer = replace(peers.get(site) or Peer(heard_s=state.live.now_s), **changes)
    return ServerState(state.config, state.book, replace(state.live, peers={**peers, site: peer}))


# ---- time and connections


def _tick(state: ServerState, event: Tick) -> ServerState:
    live = state.live
    gap = event.now_s - live.now_s
    if gap <= max(2.0, state.config.site_timeout_s / 4):
        return _quorum_clock(_live(state, now_s=max(event.now_s, live.now_s)))
    # this process slept, so nobody else was silent: what they said is still unread
    peers = {name: replace(peer, heard_s=peer.heard_s + gap) for name, peer in live.peers.items()}
    return _live(state, now_s=event.now_s, peers=peers, replica_heard_s=live.replica_heard_s + gap)


def _up(state: ServerState, event: PeerUp) -> ServerState:
    return _peer(state, event.site, up=True, welcomed=False, hello=None, want=None, heard_s=state.live.now_s)


def _down(state: ServerState, event: PeerDown) -> ServerState:
    return _peer(state, event.site, up=False, welcomed=False, hello=None, want=None)


def _replica_heard(state: ServerState, event: ReplicaHeard) -> ServerState:
    live, book = state.live, state.book
    if event.epoch > book.epoch:
        return _live(state, fenced=max(live.fenced, event.epoch))
    if book.standby and event.name != book.standby:
        return state
    # a replica that is not attached counts only once its log reaches into this epoch
    behind = event.name != book.standby and event.epoch < book.epoch
    fresh = not live.replica_up or live.replica_name != event.name
    return _live(
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
    return _live(state, replica_up=False)


# ---- messages


def _received(state: ServerState, event: Received) -> ServerState:
    handler = _MESSAGES.get(type(event.message))
    return state if handler is None else handler(state, event.site, event.message)


def _current(state: ServerState, site: str, incarnation: int) -> bool:
    """Whether this is the welcomed incarnation of a member speaking."""
    book = state.book.sites.get(site)
    return book is not None and book.member and book.incarnation == incarnation


def _heard(state: ServerState, site: str, incarnation: int, **changes: Any) -> ServerState:
    """Notes a sign of life and `changes`; who is no member (any more) is told to say Hello again."""
    peer = state.live.peers.get(site) or Peer()
    if peer.welcomed and _current(state, site, incarnation):
        return _peer(state, site, heard_s=state.live.now_s, **changes)
    if peer.hello is not None or peer.incarnation not in (0, incarnation):
        return state
    return _peer(state, site, rejoin_due=True)


def _outranked(state: ServerState, epoch: int) -> bool:
    """Whether who has seen this epoch has seen another server in it: a higher one, or this one while this
    server has not spoken in it yet."""
    book = state.book
    unspoken = state.live.started and book.confirmed < book.epoch and silenced(state)
    return epoch > book.epoch or (unspoken and epoch == book.epoch)


def _hello(state: ServerState, site: str, message: Hello) -> ServerState:
    peer = state.live.peers.get(site)
    if _outranked(state, message.epoch):
        return _live(state, fenced=max(state.live.fenced, message.epoch))
    if peer is not None and message.incarnation < peer.incarnation:
        return _peer(state, site, outdated=message.incarnation)
    if peer is not None and (message.incarnation, message.session) <= (peer.incarnation, peer.session):
        return state
    known = _current(state, site, message.incarnation)
    return _peer(
        state,
        site,
        up=True,
        hello=message,
        welcomed=False,
        session=message.session,
        incarnation=message.incarnation,
        heard_s=state.live.now_s,
        rejoin_due=False,
        want=None,
        lost=intersect(message.lost, state.book.sites[site].held) if known else (),
        goodbye="",
        arrived=None if peer is None or peer.incarnation != message.incarnation else peer.arrived,
    )


def _heartbeat(state: ServerState, site: str, message: Heartbeat) -> ServerState:
    if _outranked(state, message.epoch):
        return _live(state, fenced=max(state.live.fenced, message.epoch))
    return _heard(
        state,
        site,
        message.incarnation,
        step_rate=message.step_rate,
        up_s=message.up_s,
        down_s=message.down_s,
    )


def _want_work(state: ServerState, site: str, message: WantWork) -> ServerState:
    return _heard(
        state,
        site,
        message.incarnation,
        want=message,
        step_rate=message.step_rate,
        up_s=message.up_s,
        down_s=message.down_s,
    )


def _lost(state: ServerState, site: str, message: Lost) -> ServerState:
    if not _current(state, site, message.incarnation):
        return _heard(state, site, message.incarnation)
    if message.admission != state.book.sites[site].admission:
        return state
    lost = intersect(union(state.live.peers[site].lost, message.ranges), state.book.sites[site].held)
    return _heard(state, site, message.incarnation, lost=lost)


def _applied(state: ServerState, site: str, message: Applied) -> ServerState:
    peer = state.live.peers.get(site) or Peer()
    version = max(message.version, peer.applied_version)
    return _heard(state, site, message.incarnation, applied_version=version)


def _want_refresh(state: ServerState, site: str, message: WantRefresh) -> ServerState:
    return _heard(state, site, message.incarnation, refresh=True)


def _goodbye(state: ServerState, site: str, message: Goodbye) -> ServerState:
    if not _current(state, site, message.incarnation):
        return state
    return _peer(state, site, goodbye=message.reason or "left")


def _fenced(state: ServerState, site: str, message: Fenced) -> ServerState:
    if not _outranked(state, message.epoch):
        return state
    return _live(state, fenced=max(state.live.fenced, message.epoch))


def _vote(state: ServerState, site: str, message: VoteGranted) -> ServerState:
    live = state.live
    if message.candidate != state.config.name or message.epoch != live.votes_epoch or site in live.votes:
        return state
    return _live(state, votes=(*live.votes, site))


_MESSAGES: dict[type[Message], Callable[[ServerState, str, Any], ServerState]] = {
    Hello: _hello,
    Heartbeat: _heartbeat,
    WantWork: _want_work,
    Lost: _lost,
    Applied: _applied,
    WantRefresh: _want_refresh,
    Goodbye: _goodbye,
    Fenced: _fenced,
    VoteGranted: _vote,
}


def _arrived(state: ServerState, event: Arrived) -> ServerState:
    site, contribution = event.site, event.contribution
    if not _current(state, site, contribution.incarnation):
        return _heard(state, site, contribution.incarnation)
    book = state.book.sites[site]
    if contribution.seq <= book.seq:
        return _heard(state, site, contribution.incarnation, fate_due=contribution.seq == book.seq)
    return _heard(state, site, contribution.incarnation, arrived=event)


# ---- what the executor reports


def _persist_failed(state: ServerState, event: PersistFailed) -> ServerState:
    retry_after_s = state.live.now_s + state.config.retry_s
    return _live(state, persisting=False, disk_error=event.reason, retry_after_s=retry_after_s)


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
    return _live(state, quorum_s=live.now_s)


def _noted(state: ServerState, record: AnyRecord) -> ServerState:
    """What a durable record changes in the volatile half."""
    match record:
        case ServerStarted():
            return _live(state, started=True, votes=(), votes_epoch=0)
        case SiteAdmitted():
            return _peer(state, record.site, heard_s=state.live.now_s)
        case SiteRemoved():
            peer = state.live.peers.get(record.site, Peer())
            gone = replace(peer, welcomed=False, want=None, goodbye="", lost=(), arrived=None)
            return _live(state, peers={**state.live.peers, record.site: gone})
        case RangesReturned():
            return _peer(state, record.site, lost=subtract(state.live.peers[record.site].lost, record.ranges))
        case ContributionAccepted():
            return _note_accepted(state, record.contribution.site)
        case ContributionDiscarded():
            return _peer(state, record.site, arrived=None, fate_due=True)
        case Merged():
            return _live(state, merging=None, merged_hash=None)
        case _:
            return state


def _note_accepted(state: ServerState, site: str) -> ServerState:
    """Keeps the quorum's clock: since when enough contributions wait, and how late the others come."""
    state = _peer(state, site, arrived=None, fate_due=True)
    live = state.live
    late_s = None
    if live.quorum_s is not None:
        late_s = live.now_s - live.quorum_s
    elif site in live.missed and live.last_quorum_s is not None:
        late_s = live.now_s - live.last_quorum_s
    if late_s is not None:
        state = _live(state, lateness_s=(*live.lateness_s[-(LATENESS - 1) :], late_s))
    return state


def _merge_done(state: ServerState, event: MergeDone) -> ServerState:
    merging = state.live.merging
    if merging is None or merging.version != event.version:
        return state
    return _live(state, merged_hash=event.hash)


def _stop_asked(state: ServerState, event: StopAsked) -> ServerState:
    return _live(state, stopping=state.live.stopping or event.reason)


def _init_arrived(state: ServerState, event: InitArrived) -> ServerState:
    return state if state.book.hash else _live(state, init_hash=event.hash)


def _issued(state: ServerState, event: Issued) -> ServerState:
    for action in event.actions:
        state = _begun(state, action)
    return state


def _begun(state: ServerState, action: Any) -> ServerState:
    match action:
        case Send():
            return _sent(state, action.site, action.message)
        case Persist():
            return _live(state, persisting=True)
        case Merge():
            merged = {contribution.site for contribution in action.contributions}
            missed = tuple(name for name in state.book.members if name not in merged)
            return _live(
                state, merging=action, quorum_s=None, last_quorum_s=state.live.quorum_s, missed=missed
            )
        case Publish():
            return _live(state, published=action.version)
        case Replicate():
            told = (action.start, action.end)
            return _live(state, replica_told=told, replica_told_s=state.live.now_s)
        case StepDown():
            return _live(state, stepped_down=True)
        case Finish():
            return _live(state, finished=True)
        case _:
            raise AssertionError(f"unknown action {action!r}")


def _sent(state: ServerState, site: str, message: Message) -> ServerState:
    match message:
        case Welcome():
            hello = state.live.peers[site].hello
            assert hello is not None
            held = hello.version if hello.version <= message.version else -1
            if held == state.book.version and hello.version_hash != state.book.hash:
                held = -1
            return _peer(
                state,
                site,
                welcomed=True,
                hello=None,
                grants_sent=message.grants,
                fate_due=False,
                refresh=False,
                init_asked=False,
                sent_version=held,
                applied_version=held,
                stop_sent=False,
            )
        case Grant():
            return _peer(state, site, grants_sent=message.number)
        case Accepted() | Discarded():
            return _peer(state, site, fate_due=False)
        case VersionReady():
            applied = message.version - 1 if message.base < 0 else state.live.peers[site].applied_version
            return _peer(state, site, sent_version=message.version, refresh=False, applied_version=applied)
        case Rejoin():
            return _peer(state, site, rejoin_due=False)
        case InitWanted():
            return _peer(state, site, init_asked=True)
        case Stop():
            return _peer(state, site, stop_sent=True)
        case VoteRequest():
            live = state.live
            votes = live.votes if live.votes_epoch == message.epoch else ()
            state = _live(state, votes=votes, votes_epoch=message.epoch)
            return _peer(state, site, vote_asked_s=live.now_s)
        case Refused():
            peer = state.live.peers[site]
            answered = peer.hello is not None and peer.hello.incarnation == message.incarnation
            return _peer(state, site, hello=None if answered else peer.hello, outdated=0)
        case _:
            raise AssertionError(f"a server does not say {message!r}")


_HANDLERS: dict[type[AnyEvent], Callable[[ServerState, Any], ServerState]] = {
    Tick: _tick,
    PeerUp: _up,
    PeerDown: _down,
    Received: _received,
    Arrived: _arrived,
    InitArrived: _init_arrived,
    Issued: _issued,
    Persisted: _persisted,
    PersistFailed: _persist_failed,
    MergeDone: _merge_done,
    StopAsked: _stop_asked,
    ReplicaHeard: _replica_heard,
    ReplicaDown: _replica_down,
}
