"""What a keeper knows."""

from typing import Literal

import msgspec
from msgspec.structs import replace

from isthmus.heal.actions import AnyAction, End, Member, NodeRecord, Record
from isthmus.heal.messages import Posted
from isthmus.heal.policy import Policy

Health = Literal["well", "suspect", "checking", "out", "lost", "away"]
"""away: not yet back since the keeper was restarted. suspect: to be checked. out: until a person says
otherwise. lost: its agent cannot be reached."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    slots: int = 0
    spare: bool = False
    address: str = "127.0.0.1"
    health: Health = "well"
    failures: tuple[float, ...] = ()
    """When its ranks failed, within the window."""
    spawn_failures: int = 0
    barred_s: float = 0.0
    """Nothing is spawned there until then."""
    strikes: int = 0
    wait_s: float = 0.0
    """checking: the answer is due by then. suspect: the check begins then."""


class Process(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    node: str
    stage: Literal["spawned", "warm", "member", "doomed"] = "spawned"
    """doomed: killed or about to end, not gone yet; it takes part in nothing."""
    since_s: float = 0.0
    has_state: bool = False
    left: bool = False
    """It said it ends in order."""
    stays: bool = True
    """It outlives its group."""


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """From the first fault until all train again."""

    began_s: float
    detected_s: float
    diagnosed_s: float = 0.0
    regrouped_s: float = 0.0
    subjects: tuple[str, ...] = ()
    ladder: str = "retry"


class KeeperState(msgspec.Struct, frozen=True, kw_only=True):
    site: str
    world_size: int
    """Places there should be."""
    policy: Policy = Policy()
    now_s: float = 0.0
    boot: int = 1
    spawned: int = 0
    record_due: bool = True
    nodes: dict[str, Node] = {}
    processes: dict[str, Process] = {}
    homes: tuple[str, ...] = ()
    """Node each place is meant to be on; '': no node can take it."""
    # the group
    stage: Literal["empty", "forming", "running", "recovering"] = "empty"
    since_s: float = 0.0
    """When the stage began."""
    generation: int = 0
    members: tuple[str, ...] = ()
    """Processes of `generation` by rank, dead ones too."""
    fresh: tuple[int, ...] = ()
    """Ranks without state, as the members were told."""
    joined: tuple[str, ...] = ()
    spoke: tuple[str, ...] = ()
    """Said anything in this generation."""
    broken: tuple[str, ...] = ()
    broken_s: float = 0.0
    broken_why: str = ""
    posted: tuple[tuple[str, Posted], ...] = ()
    gone: tuple[str, ...] = ()
    """Members that are gone for certain."""
    left: tuple[str, ...] = ()
    """Members that ended in order, or are about to."""
    left_s: float = 0.0
    unsure: dict[str, float] = {}
    """Members that were killed or whose node was lost, and when they are over even if nobody saw it."""
    lost_steps: int = 0
    form_s: float = 0.0
    """The longest time a group took to form."""
    timeouts: int = 0
    """Groups in a row that did not form in time."""
    # how it goes
    step: int = -1
    high_step: int = -1
    """The highest step that was ever done: only beyond it is progress."""
    opened: int = 0
    """Generations opened since then."""
    retries: int = 0
    barren: int = 0
    restarts: dict[int, tuple[float, ...]] = {}
    errors: tuple[tuple[str, int, int, str], ...] = ()
    cures: dict[str, int] = {}
    """Numeric fault that a replacement was made for -> the step then."""
    at_most_step: int = -1
    """Nothing newer may be taken up; -1: no such bound."""
    rollback: bool = False
    """The next group drops what its members have."""
    trouble: Trouble | None = None
    # the end
    leaving: str = ""
    leave_s: float = 0.0
    leave_regroups: int = 0
    leave_told: int = 0
    """Generation that was told to leave."""
    verdict: End | None = None
    ended: bool = False
    outbox: tuple[AnyAction, ...] = ()


def initial(site: str, world_size: int, policy: Policy | None = None) -> KeeperState:
    """A keeper that starts a site. Nodes join, processes are spawned on them, and a first group is formed."""
    return KeeperState(site=site, world_size=world_size, policy=policy or Policy(), homes=("",) * world_size)


def record(state: KeeperState) -> Record:
    members = tuple(
        Member(name, process.node, process.has_state, name in state.gone)
        if (process := state.processes.get(name))
        else Member(name, "", False, name in state.gone)
        for name in state.members
    )
    nodes = tuple(
        NodeRecord(name=node.name, spare=node.spare, health=node.health, strikes=node.strikes)
        for node in state.nodes.values()
    )
    return Record(
        boot=state.boot,
        generation=state.generation,
        members=members,
        world_size=state.world_size,
        step=state.high_step,
        nodes=nodes,
        errors=state.errors,
        at_most_step=state.at_most_step,
        leaving=state.leaving,
        left=state.left,
    )


def recover(site: str, record: Record, policy: Policy | None = None, now_s: float = 0.0) -> KeeperState:
    """A keeper that was restarted: the agents join again with their processes, these say Hello and Joined
    again. The ranks train on meanwhile; if all are still there, nothing happens at all.
    """
    state = initial(site, record.world_size, policy)
    processes = {
        member.process: Process(
            id=member.process,
            node=member.node,
            stage="member",
            since_s=now_s,
            has_state=member.has_state,
            left=member.process in record.left,
        )
        for member in record.members
        if member.node and not member.gone
    }
    nodes = {
        node.name: Node(
            name=node.name,
            spare=node.spare,
            health="away" if node.health in ("well", "away") else "out" if node.health == "out" else "lost",
            strikes=node.strikes,
        )
        for node in record.nodes
    }
    homes = tuple(member.node for member in record.members)
    return replace(
        state,
        now_s=now_s,
        boot=record.boot + 1,
        nodes=nodes,
        processes=processes,
        homes=(homes + ("",) * record.world_size)[: record.world_size],
        stage="recovering" if record.members else "empty",
        since_s=now_s,
        generation=record.generation,
        members=tuple(member.process for member in record.members),
        gone=tuple(member.process for member in record.members if member.gone),
        unsure={
            member.process: now_s + state.policy.lease_s
            for member in record.members
            if not member.gone and not member.node
        },
        high_step=record.step,
        errors=record.errors,
        at_most_step=record.at_most_step,
        rollback=record.at_most_step >= 0,
        left=record.left,
        left_s=now_s,
        leaving=record.leaving,
        leave_s=now_s,
    )
