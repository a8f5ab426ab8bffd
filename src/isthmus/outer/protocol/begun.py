"""What was begun is marked, so that it is planned once."""

from typing import Any

from isthmus.outer.messages import (
    Accepted,
    Discarded,
    Grant,
    Message,
    Refused,
    Rejoin,
    Stop,
    VersionReady,
    VoteRequest,
    Welcome,
)
from isthmus.outer.protocol.changes import with_live, with_peer
from isthmus.outer.protocol.state import (
    Finish,
    Issued,
    Merge,
    Persist,
    Publish,
    Replicate,
    Send,
    ServerState,
    StepDown,
)


def issued(state: ServerState, event: Issued) -> ServerState:
    for action in event.actions:
        state = _begun(state, action)
    return state


def _begun(state: ServerState, action: Any) -> ServerState:
    match action:
        case Send():
            return _sent(state, action.site, action.message)
        case Persist():
            return with_live(state, persisting=True)
        case Merge():
            merged = {contribution.site for contribution in action.contributions}
            missed = tuple(name for name in state.book.members if name not in merged)
            return with_live(
                state, merging=action, quorum_s=None, last_quorum_s=state.live.quorum_s, missed=missed
            )
        case Publish():
            return with_live(state, published=action.version)
        case Replicate():
            told = (action.start, action.end)
            return with_live(state, replica_told=told, replica_told_s=state.live.now_s)
        case StepDown():
            return with_live(state, stepped_down=True)
        case Finish():
            return with_live(state, finished=True)
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
            return with_peer(
                state,
                site,
                welcomed=True,
                hello=None,
                grants_sent=message.grants,
                fate_due=False,
                refresh=False,
                sent_version=held,
                applied_version=held,
                stop_sent=False,
            )
        case Grant():
            return with_peer(state, site, grants_sent=message.number)
        case Accepted() | Discarded():
            return with_peer(state, site, fate_due=False)
        case VersionReady():
            applied = message.version - 1 if message.base < 0 else state.live.peers[site].applied_version
            return with_peer(
                state, site, sent_version=message.version, refresh=False, applied_version=applied
            )
        case Rejoin():
            return with_peer(state, site, rejoin_due=False)
        case Stop():
            return with_peer(state, site, stop_sent=True)
        case VoteRequest():
            live = state.live
            votes = live.votes if live.votes_epoch == message.epoch else ()
            state = with_live(state, votes=votes, votes_epoch=message.epoch)
            return with_peer(state, site, vote_asked_s=live.now_s)
        case Refused():
            peer = state.live.peers[site]
            answered = peer.hello is not None and peer.hello.incarnation == message.incarnation
            return with_peer(state, site, hello=None if answered else peer.hello, outdated=0)
        case _:
            raise AssertionError(f"a server does not say {message!r}")
