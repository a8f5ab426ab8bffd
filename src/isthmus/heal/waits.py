"""Rules for what takes too long: a keeper's members, a start, a death, a check."""

from msgspec.structs import replace

from isthmus.heal.actions import Check, Kill
from isthmus.heal.state import KeeperState
from isthmus.heal.trouble import (
    break_group,
    cannot_start,
    check_failed,
    climb,
    doom,
    doubt,
    fault,
    live,
    lose,
    name_of,
    put_node,
    rank_of,
    say,
)

DOOMED_S = 5.0
"""From SIGKILL to the exit; one that takes longer hangs in the kernel."""


def unheard(state: KeeperState) -> KeeperState | None:
    """After the keeper's restart: who has said nothing by now is not there."""
    if state.stage != "recovering" or state.now_s < state.since_s + state.policy.recover_s:
        return None
    silent = [process for process in live(state) if process.id not in state.spoke]
    names = [name_of(state, rank_of(state, process.id)) for process in silent]
    state = climb(fault(state, "rank_died", "not there after the keeper's restart", *names), "restart_rank")
    for process in silent:
        state = lose(say(state, Kill(process.id)), process, certain=False)
    for node in state.nodes.values():
        if node.health == "away":
            state = put_node(state, replace(node, health="lost", spare=True))
    return replace(break_group(state), record_due=True)


def never_warm(state: KeeperState) -> KeeperState | None:
    for process in state.processes.values():
        late = state.now_s >= process.since_s + state.policy.warm_timeout_s
        if process.stage == "spawned" and late:
            return cannot_start(doom(state, process), process.node, "nothing gets warm in time")
    return None


def never_gone(state: KeeperState) -> KeeperState | None:
    """A doomed process that does not end. It takes part in nothing; its node is suspect."""
    for process in state.processes.values():
        if process.stage == "doomed" and state.now_s >= process.since_s + DOOMED_S:
            state = say(lose(state, process, certain=False), Kill(process.id))
            return doubt(state, process.node, f"{process.id} does not end when it is killed")
    return None


def check(state: KeeperState) -> KeeperState | None:
    for node in state.nodes.values():
        if node.health == "suspect" and state.now_s >= node.wait_s:
            wait_s = state.now_s + state.policy.check_timeout_s
            return say(put_node(state, replace(node, health="checking", wait_s=wait_s)), Check(node.name))
        if node.health == "checking" and state.now_s >= node.wait_s:
            return check_failed(state, node, "no answer")
    return None
