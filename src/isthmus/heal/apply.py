"""`apply(state, event) -> state`: what each event changes. What to do about it are the rules' words, but for
what is answered at once (a pair is passed on, a stranger is killed)."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from isthmus.heal.actions import Emit, Kill
from isthmus.heal.events import (
    AnyEvent,
    Checked,
    Diagnosed,
    Exited,
    Found,
    LeaveAsked,
    NodeJoined,
    NodeLost,
    Said,
    Started,
    Tick,
)
from isthmus.heal.hear import said
from isthmus.heal.state import KeeperState, Node, Process
from isthmus.heal.trouble import (
    USER_ERRORS,
    advanced,
    alert,
    cannot_start,
    check_failed,
    climb,
    condemn,
    count_node,
    count_restart,
    crashed,
    doom,
    drop_process,
    end,
    fault,
    live,
    lose,
    name_of,
    put_node,
    put_process,
    rank_of,
    roll_back,
    saved,
    say,
)

NUMERIC = ("nan", "sdc")
SIGNALS_FROM_OUTSIDE = (-9, -15, None)
"""SIGKILL, SIGTERM, not known: these say nothing about the program."""


def apply(state: KeeperState, event: AnyEvent) -> KeeperState:
    state = replace(state, now_s=max(state.now_s, event.now_s))
    return state if state.ended else _HANDLERS[type(event)](state, event)


def _tick(state: KeeperState, event: Tick) -> KeeperState:
    return advanced(state, event.step) if state.stage == "running" else state


# ---- nodes


def _node_joined(state: KeeperState, event: NodeJoined) -> KeeperState:
    known = state.nodes.get(event.node) or Node(name=event.node, spare=event.spare)
    health = {"away": "well", "lost": "suspect"}.get(known.health, known.health)
    state = replace(state, record_due=True)
    return put_node(
        state,
        replace(known, slots=event.slots, address=event.address, health=health, wait_s=state.now_s),
    )


def _node_lost(state: KeeperState, event: NodeLost) -> KeeperState:
    node = state.nodes.get(event.node)
    if node is None or node.health == "lost":
        return state
    health = "out" if node.health == "out" else "lost"
    state = replace(put_node(state, replace(node, health=health, spare=True)), record_due=True)
    here = [process for process in state.processes.values() if process.node == event.node]
    names = [name_of(state, rank_of(state, process.id)) for process in here if process in live(state)]
    if names:
        text = f"the agent of node {event.node} cannot be reached"
        state = climb(fault(state, "node_lost", text, f"node-{event.node}", *names), "replace_node")
    for process in here:
        state = lose(state, process, certain=False)
    return state


def _checked(state: KeeperState, event: Checked) -> KeeperState:
    node = state.nodes.get(event.node)
    if node is None or node.health != "checking":
        return state
    state = replace(state, record_due=True)
    if event.ok:
        return put_node(state, replace(node, health="well", spare=True, failures=(), spawn_failures=0))
    return check_failed(state, node, event.text)


# ---- processes


def _started(state: KeeperState, event: Started) -> KeeperState:
    known = state.processes.get(event.process)
    if known is not None:
        return state
    node = state.nodes.get(event.node)
    ours = event.process.startswith(f"{event.node}/") and node is not None and node.health == "well"
    if event.process in state.members or not ours or event.process.startswith(f"{event.node}/{state.boot}."):
        return say(state, Kill(event.process))  # given up, or of a node that is to be checked
    return put_process(state, Process(id=event.process, node=event.node, since_s=state.now_s))


def _exited(state: KeeperState, event: Exited) -> KeeperState:
    process = state.processes.get(event.process)
    if process is None:
        ghost = Process(id=event.process, node="")
        return lose(state, ghost, certain=True) if event.process in state.unsure else state
    if process.left or saved(state):
        return lose(state, process, certain=True)
    if process.stage == "doomed":
        return _judge(lose(state, process, certain=True), event)
    if process.stage != "member":
        state = _spawn_failed(drop_process(state, process.id), process, event)
        return state if state.stage == "running" else _judge(state, event)
    rank = rank_of(state, process.id)
    what = "silent_exit" if event.code == 0 else "rank_died"
    text = event.words or f"exit code {event.code}"
    state = climb(fault(state, what, text, name_of(state, rank)), "restart_rank")
    state = count_node(count_restart(state, rank), process.node)
    if event.code not in SIGNALS_FROM_OUTSIDE:
        state = crashed(state, text)
    return _judge(lose(state, process, certain=True), event)


def _judge(state: KeeperState, event: Exited) -> KeeperState:
    if event.code not in USER_ERRORS:
        return state
    return end(state, f"{event.process} ended with exit code {event.code}", event.code, event.words)


def _spawn_failed(state: KeeperState, process: Process, event: Exited) -> KeeperState:
    """It ended before it had a place; a warm one may die like any other."""
    state = say(state, Emit(kind="note", text=f"standby {process.id} ended: {event.words or event.code}"))
    if process.stage == "warm":
        return state
    return cannot_start(state, process.node, event.words or f"exit code {event.code}")


# ---- what detectors say


def _found(state: KeeperState, event: Found) -> KeeperState:
    finding = event.finding
    if event.generation != state.generation or state.stage not in ("forming", "running"):
        return state
    named = finding.suspects if finding.rank is None else (finding.rank,)
    blamed = [process for process in live(state) if rank_of(state, process.id) in named]
    if finding.rank is not None and not blamed:
        return state
    names = tuple(name_of(state, rank_of(state, process.id)) for process in blamed)
    if not finding.lasting:
        told = Emit(
            kind="fault", what=finding.kind, text=finding.what, subjects=names, began_s=finding.began_s
        )
        return say(state, replace(told, detected_s=state.now_s, generation=state.generation))
    state = fault(state, finding.kind, finding.what, *names, began_s=finding.began_s)
    if finding.kind in NUMERIC:
        return _numeric(state, finding.kind, blamed)
    if finding.rank is None and 2 * len(blamed) >= len(live(state)):
        state = alert(state, f"{finding.what}: too many suspects to replace them, the group is made anew")
        return replace(state, broken=state.members, broken_s=state.now_s)
    return _replace_ranks(state, blamed)


def _replace_ranks(state: KeeperState, blamed: list[Process]) -> KeeperState:
    if not blamed:
        return replace(state, broken=state.members, broken_s=state.now_s)
    for process in blamed:
        state = count_restart(climb(state, "restart_rank"), rank_of(state, process.id))
        state = doom(count_node(state, process.node), process)
    return state


def _numeric(state: KeeperState, kind: str, blamed: list[Process]) -> KeeperState:
    """First the one it comes from is replaced; if it comes again, back to before it."""
    if kind not in state.cures or state.high_step > state.cures[kind] + state.policy.cure_steps:
        state = replace(state, cures={**state.cures, kind: state.high_step})
        return _replace_ranks(state, blamed) if blamed else roll_back(state, state.high_step - 1)
    return roll_back(state, state.cures[kind] - 1)


def _diagnosed(state: KeeperState, event: Diagnosed) -> KeeperState:
    best = event.diagnosis.best
    trouble = state.trouble
    if trouble is not None and not trouble.diagnosed_s:
        state = replace(state, trouble=replace(trouble, diagnosed_s=state.now_s))
    names = () if best.rank is None else (name_of(state, best.rank),)
    if best.action in ("alert_human", "fix_config"):
        return alert(state, event.diagnosis.cause, *names)
    if event.generation < state.generation - 1 or best.action not in (
        "replace_node",
        "quarantine",
        "rollback",
    ):
        return state
    if best.action == "rollback":
        return roll_back(state, state.high_step - 1)
    node = best.place
    if best.rank is not None and best.rank < min(len(state.members), len(state.homes)):
        node = state.homes[best.rank]  # a rank that was restarted since is where it was
    return condemn(state, node, event.diagnosis.cause)


def _leave_asked(state: KeeperState, event: LeaveAsked) -> KeeperState:
    if state.leaving:
        return state
    return replace(state, leaving=event.reason, leave_s=state.now_s, record_due=True)


_HANDLERS: dict[type[AnyEvent], Callable[[KeeperState, Any], KeeperState]] = {
    Tick: _tick,
    NodeJoined: _node_joined,
    NodeLost: _node_lost,
    Checked: _checked,
    Started: _started,
    Exited: _exited,
    Said: said,
    Found: _found,
    Diagnosed: _diagnosed,
    LeaveAsked: _leave_asked,
}
