"""The parameter server as a pure state machine: `apply(state, event) -> state`, `plan(state) -> actions`."""

from isthmus.outer.protocol.apply import apply, promote, start
from isthmus.outer.protocol.plan import plan
from isthmus.outer.protocol.state import ServerConfig, ServerState

__all__ = ["ServerConfig", "ServerState", "apply", "plan", "promote", "start"]
