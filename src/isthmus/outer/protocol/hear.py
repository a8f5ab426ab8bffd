"""What a site's message changes. Messages are idempotent: sent twice or late they do no harm."""

from collections.abc import Callable
from typing import Any

from isthmus.outer.messages import (
    Applied,
    Fenced,
    Goodbye,
    Heartbeat,
    Hello,
    Lost,
    Message,
    VoteGranted,
    WantRefresh,
    WantWork,
)
from isthmus.outer.protocol.changes import with_live, with_peer
from isthmus.outer.protocol.epoch import silenced
from isthmus.outer.protocol.state import (
    Arrived,
    Peer,
    Received,
    ServerState,
)
from isthmus.outer.ranges import intersect, union


def received(state: ServerState, event: Received) -> ServerState:
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
        return with_peer(state, site, heard_s=state.live.now_s, **changes)
    if peer.hello is not None or peer.incarnation not in (0, incarnation):
        return state
    return with_peer(state, site, rejoin_due=True)


def outranked(state: ServerState, epoch: int) -> bool:
    """Whether who has seen this epoch has seen another server in it: a higher one, or this one while this
    server has not spoken in it yet."""
    book = state.book
    unspoken = state.live.started and book.confirmed < book.epoch and silenced(state)
    return epoch > book.epoch or (unspoken and epoch == book.epoch)


def _hello(state: ServerState, site: str, message: Hello) -> ServerState:
    peer = state.live.peers.get(site)
    if outranked(state, message.epoch):
        return with_live(state, fenced=max(state.live.fenced, message.epoch))
    if peer is not None and message.incarnation < peer.incarnation:
        return with_peer(state, site, outdated=message.incarnation)
    if peer is not None and (message.incarnation, message.session) <= (peer.incarnation, peer.session):
        return state
    known = _current(state, site, message.incarnation)
    return with_peer(
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
    if outranked(state, message.epoch):
        return with_live(state, fenced=max(state.live.fenced, message.epoch))
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
    return with_peer(state, site, goodbye=message.reason or "left")


def _fenced(state: ServerState, site: str, message: Fenced) -> ServerState:
    if not outranked(state, message.epoch):
        return state
    return with_live(state, fenced=max(state.live.fenced, message.epoch))


def _vote(state: ServerState, site: str, message: VoteGranted) -> ServerState:
    live = state.live
    if message.candidate != state.config.name or message.epoch != live.votes_epoch or site in live.votes:
        return state
    return with_live(state, votes=(*live.votes, site))


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


def arrived(state: ServerState, event: Arrived) -> ServerState:
    site, contribution = event.site, event.contribution
    if not _current(state, site, contribution.incarnation):
        return _heard(state, site, contribution.incarnation)
    book = state.book.sites[site]
    if contribution.seq <= book.seq:
        return _heard(state, site, contribution.incarnation, fate_due=contribution.seq == book.seq)
    return _heard(state, site, contribution.incarnation, arrived=event)
