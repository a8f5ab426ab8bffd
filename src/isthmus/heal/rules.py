"""What is to be done: named rules, the first that has something to do does it. Each takes the state and
returns the one after it, or None."""

from collections.abc import Callable

from msgspec.structs import replace

from isthmus.heal.actions import Remember
from isthmus.heal.ends import close, finish, leave_late, never_began, nobody, stalled
from isthmus.heal.groups import gather, grow, house, leave, spawn, surplus
from isthmus.heal.places import usable, waiting
from isthmus.heal.state import KeeperState, Process, record
from isthmus.heal.trouble import (
    alert,
    break_group,
    climb,
    condemn,
    doom,
    fault,
    live,
    name_of,
    rank_of,
    saved,
    say,
)
from isthmus.heal.waits import check, never_gone, never_warm, unheard


def plan(state: KeeperState) -> KeeperState | None:
    for rule in ENDINGS if saved(state) else RULES:
        after = rule(state)
        if after is not None:
            return after
    return None


def remember(state: KeeperState) -> KeeperState | None:
    if not state.record_due:
        return None
    return replace(say(state, Remember(state.generation, record(state))), record_due=False)


def mend(state: KeeperState) -> KeeperState | None:
    """The group broke and nobody died: once all have said so, or a death had time to be seen, anew."""
    if not state.broken or state.stage == "empty":
        return None
    whole = all(process.id in state.broken for process in live(state))
    if state.now_s < state.broken_s + state.policy.settle_s and not whole:
        return None
    return _again(fault(state, "comm_error", state.broken_why or "the group broke, no process died"))


def form_late(state: KeeperState) -> KeeperState | None:
    """A group that does not form. Who said nothing at all in it is not there."""
    if state.stage != "forming" or state.now_s < state.since_s + form_timeout_s(state):
        return None
    waited = f"the group did not form within {form_timeout_s(state):.0f} s"
    silent = [p for p in live(state) if p.id not in state.spoke and p.id not in state.joined]
    state = replace(state, timeouts=state.timeouts + 1)
    if not silent:
        return _again(fault(state, "rendezvous", waited))
    return _kill(fault(state, "rendezvous", waited, *(_names(state, silent))), silent)


def form_timeout_s(state: KeeperState) -> float:
    policy = state.policy
    first_s = max(policy.form_timeout_s, 3 * state.form_s)
    return min(policy.form_timeout_max_s, first_s * 2.0 ** min(state.timeouts, 8))


def _names(state: KeeperState, processes: list[Process]) -> list[str]:
    return [name_of(state, rank_of(state, process.id)) for process in processes]


def _kill(state: KeeperState, processes: list[Process]) -> KeeperState:
    state = climb(state, "restart_rank")
    for process in processes:
        state = doom(state, process)
    return break_group(state)


def _again(state: KeeperState) -> KeeperState:
    """Retry; after too many, one is to blame: the smaller side of a cut, else who never joined."""
    state = replace(state, retries=state.retries + 1)
    if state.retries <= state.policy.retries:
        return break_group(state)
    state = replace(state, retries=0)
    nodes = [process.node for process in live(state)]
    if len(set(nodes)) > 1:
        known = [process.node for process in live(state) if process.has_state]
        small = min(reversed(dict.fromkeys(nodes)), key=lambda node: (node in known[:1], nodes.count(node)))
        return break_group(condemn(state, small, "groups with it break again and again"))
    absent = [p for p in live(state) if p.id not in state.joined]
    if not absent or len(absent) == len(live(state)):
        keep = next((p for p in live(state) if p.has_state), live(state)[0] if live(state) else None)
        absent = [p for p in live(state) if p is not keep]
    state = alert(state, "the group breaks again and again: its processes are replaced")
    return _kill(state, absent)


def replace_node(state: KeeperState) -> KeeperState | None:
    """It failed twice within the hour, and a spare can stand in."""
    for node in state.nodes.values():
        recent = [at_s for at_s in node.failures if at_s > state.now_s - state.policy.window_s]
        if len(recent) < state.policy.node_failures or node.health != "well":
            continue
        places = state.homes.count(node.name)
        kept = any(process.has_state and process.node != node.name for process in live(state))
        if places and kept and any(_stands_in(state, other.name, places) for other in state.nodes.values()):
            return condemn(state, node.name, f"{len(recent)} failures within the hour")
    return None


def _stands_in(state: KeeperState, name: str, places: int) -> bool:
    node = state.nodes[name]
    ready = sum(process.stage == "warm" for process in waiting(state, name))
    return node.spare and name not in state.homes and usable(state, name) and ready >= places


ENDINGS: tuple[Callable[[KeeperState], KeeperState | None], ...] = (close, remember, finish)
RULES: tuple[Callable[[KeeperState], KeeperState | None], ...] = (
    close, finish, never_began, leave_late, nobody, stalled, remember, unheard,
    never_warm, never_gone, check, mend, form_late, replace_node,
    house, gather, grow, leave, spawn, surplus,
)  # fmt: skip
