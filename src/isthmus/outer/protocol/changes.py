"""States with one part changed."""

from typing import Any

from msgspec.structs import replace

from isthmus.outer.protocol.state import (
    Peer,
    ServerState,
)


def with_live(state: ServerState, **changes: Any) -> ServerState:
    return ServerState(state.config, state.book, replace(state.live, **changes))


def with_peer(state: ServerState, site: str, **changes: Any) -> ServerState:
    peers = state.live.peers
    peer = replace(peers.get(site) or Peer(heard_s=state.live.now_s), **changes)
    return ServerState(state.config, state.book, replace(state.live, peers={**peers, site: peer}))
