"""Between a site's keeper and the agents of its other nodes, over TLS: `<u32 length><msgpack>`.

A node's agent relays what the pure keeper hears and asks for (`heal.events`, `heal.actions`); what is here
beside is about the node itself.
"""

import msgspec

from isthmus.faults.burn_report import BurnReport
from isthmus.heal import actions, events


class NodeHello(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Node to keeper, first."""

    node: str
    agent: str
    """Made up by this life of the agent."""
    slots: int
    """Places it can hold."""
    spare: bool
    address: str
    """As its ranks are reached by the others."""
    facts: dict[str, str]
    """Hashes of what it is going to train, which the keeper compares with its own."""
    processes: list[str]
    """That run there."""
    stamp_s: float
    """The node's clock."""
    checked: BurnReport | None = None
    """How its check went, where it made one."""


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Keeper to node: it is one of the site's."""

    stamp_s: float
    """The hello's."""
    lease_s: float
    has_client: bool
    """The site is one of several, and its rank 0 speaks with a client on the keeper's node."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Keeper to node, last."""

    reason: str
    for_now: bool
    """It may try again."""


class Alive(msgspec.Struct, frozen=True, tag=True):
    """A node says its clock, every second, and the keeper says it back, with its own time of day: as long as
    that is not older than the lease, the keeper counts on the node's ranks."""

    stamp_s: float
    wall_s: float = 0.0


class Changes(msgspec.Struct, frozen=True, tag=True):
    """Words of a process's page that are not what they were."""

    process: str
    words: bytes
    """Index (u16) and value (i64) of each, one after the other."""


class Pages(msgspec.Struct, frozen=True, tag=True):
    """Node to keeper: what its ranks' pages say now."""

    now_ns: int
    """Clock of the times on them."""
    pages: list[Changes]


FromNode = (
    NodeHello | Alive | Pages | events.Started | events.Said | events.Exited | events.Checked
    | events.LeaveAsked
)  # fmt: skip
ToNode = Welcome | Refused | Alive | actions.Spawn | actions.Tell | actions.Kill | actions.Check | actions.End
