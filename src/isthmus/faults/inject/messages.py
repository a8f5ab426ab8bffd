"""To a site's agent: make this fault; and what it says to that."""

import msgspec


class InjectRequest(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    rank: int
    """Of the site; the agent passes it on as `heal.messages.Inject`, save for kinds that are its own."""
    kind: str
    at_step: int = -1
    """Optimizer steps done; -1: not by steps."""
    at_s: float = -1.0
    """Seconds after the request came, kept by the agent; -1: not by time."""
    at: str = ""
    """'saving' or 'recovering': the next one after the time above."""
    value: float = 0.0
    """0: the kind's default."""


class InjectReply(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    ok: bool
    text: str = ""
    """What will happen, or why it will not."""
