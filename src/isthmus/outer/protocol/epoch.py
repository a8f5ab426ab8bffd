"""Which server may speak: epochs, the standby's acknowledgements, detaching a standby by vote."""

from isthmus.outer.messages import VoteRequest
from isthmus.outer.protocol.records import AnyRecord, ServerStarted, StandbyAttached
from isthmus.outer.protocol.state import AnyAction, Replicate, Send, ServerState, StepDown


def start(state: ServerState) -> list[AnyRecord]:
    """The epoch of this process, durable before anybody hears of it."""
    live, book = state.live, state.book
    if live.started:
        return []
    if live.start_epoch:
        return [ServerStarted(epoch=live.start_epoch, standby="", voted=True)]
    return [ServerStarted(epoch=book.epoch + 1, standby=book.standby)]


def fence(state: ServerState) -> list[AnyAction]:
    live = state.live
    return [StepDown(live.fenced)] if live.fenced and not live.stepped_down else []


def silenced(state: ServerState) -> bool:
    """Nothing may leave this server while its attached standby lacks a record: it might be promoted
    without it."""
    book, live = state.book, state.live
    if not book.standby:
        return False
    attached = live.replica_name == book.standby
    return not attached or live.replica_length < book.length


def replicate(state: ServerState) -> list[AnyAction]:
    """What the replica lacks, once per report of its length, and again after a while; else a sign of life."""
    live, book = state.live, state.book
    if not live.replica_up:
        return []
    missing = (live.replica_length, book.length)
    quiet = live.now_s - live.replica_told_s < state.config.retry_s
    if quiet and (missing[0] >= missing[1] or live.replica_told == missing):
        return []
    return [Replicate(live.replica_name, *missing)]


def attach(state: ServerState) -> list[AnyRecord]:
    """A replica that holds everything becomes the standby; from this record on its word is needed."""
    live, book = state.live, state.book
    if book.standby or not live.replica_up or live.replica_length < book.length:
        return []
    return [StandbyAttached(name=live.replica_name)]


def majority(members: int) -> int:
    return members // 2 + 1


def ask_detach(state: ServerState) -> list[AnyAction]:
    """The standby is silent: ask the sites for the next epoch, to go on without it."""
    live, book, config = state.live, state.book, state.config
    if live.now_s - live.replica_heard_s < config.standby_timeout_s:
        return []
    request = VoteRequest(epoch=book.epoch + 1, candidate=config.name, log_epoch=book.confirmed)
    voted = live.votes if live.votes_epoch == request.epoch else ()
    return [
        Send(name, request)
        for name in book.members
        if name not in voted
        and (peer := live.peers.get(name)) is not None
        and peer.up
        and live.now_s - peer.vote_asked_s >= config.retry_s
    ]


def detach(state: ServerState) -> list[AnyRecord]:
    live, book = state.live, state.book
    voters = [name for name in live.votes if name in book.members]
    if live.votes_epoch != book.epoch + 1 or len(voters) < majority(len(book.members)):
        return []
    return [ServerStarted(epoch=book.epoch + 1, standby="", voted=True)]
