"""What processes say."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from isthmus.heal.actions import Emit, Kill, Tell
from isthmus.heal.events import Said
from isthmus.heal.messages import Broken, Failed, Form, Hello, Joined, Leaving, Posted, Warm
from isthmus.heal.state import KeeperState, Process
from isthmus.heal.trouble import (
    USER_ERRORS,
    advanced,
    climb,
    count_node,
    count_restart,
    crashed,
    end,
    ending,
    fault,
    live,
    name_of,
    put_node,
    put_process,
    rank_of,
    saved,
    say,
)

TEXT_KEPT = 20_000
"""Characters of a traceback."""
REASON_KEPT = 300


def said(state: KeeperState, event: Said) -> KeeperState:
    process = state.processes.get(event.process)
    if process is None:  # given up long ago, or never known
        return say(state, Kill(event.process)) if isinstance(event.message, Hello) else state
    if process.stage == "doomed":
        return state
    return _HEARD[type(event.message)](state, process, event.message)


def _counts(state: KeeperState, process: Process, generation: int) -> bool:
    return generation == state.generation and process.id in state.members


def _spoke(state: KeeperState, process: Process) -> KeeperState:
    return replace(state, spoke=tuple(dict.fromkeys((*state.spoke, process.id))))


def _hello(state: KeeperState, process: Process, message: Hello) -> KeeperState:
    state = put_process(
        state,
        replace(
            process,
            has_state=process.has_state or message.step >= 0,
            stays=message.stays,
        ),
    )
    state = advanced(state, message.step)
    if process.id not in state.members:
        return state
    if state.stage == "recovering" and message.generation != state.generation:
        return _mark_broken(_spoke(state, process), process)  # what it was to form it never heard of
    if state.stage != "forming":
        return _spoke(state, process)
    if message.generation != state.generation:
        state = say(state, Tell(process.id, form(state, rank_of(state, process.id))))
    return say(state, *(Tell(process.id, pair) for sender, pair in state.posted if sender != process.id))


def form(state: KeeperState, rank: int) -> Form:
    process = state.processes[state.members[rank]]
    node = state.nodes.get(process.node)
    return Form(
        generation=state.generation,
        rank=rank,
        world_size=len(state.members),
        fresh=state.fresh,
        address=node.address if node else "127.0.0.1",
        at_most_step=state.at_most_step if state.rollback else -1,
    )


def _warm(state: KeeperState, process: Process, message: Warm) -> KeeperState:
    if process.stage != "spawned":
        return state
    state = put_process(state, replace(process, stage="warm"))
    node = state.nodes.get(process.node)
    return put_node(state, replace(node, spawn_failures=0)) if node else state


def _posted(state: KeeperState, process: Process, message: Posted) -> KeeperState:
    """On to the others. Who posts without end is not forming a group."""
    if not _counts(state, process, message.generation) or state.stage != "forming":
        return state
    sent = sum(sender == process.id for sender, _ in state.posted)
    if sent >= state.policy.posted_per_member:
        return _mark_broken(state, process)
    state = replace(_spoke(state, process), posted=(*state.posted, (process.id, message)))
    return say(state, *(Tell(other.id, message) for other in live(state) if other.id != process.id))


def _broken(state: KeeperState, process: Process, message: Broken) -> KeeperState:
    if not _counts(state, process, message.generation) or state.stage == "empty":
        return state
    why = state.broken_why if state.broken else message.reason[:REASON_KEPT]
    state = _mark_broken(_spoke(replace(state, broken_why=why), process), process)
    return advanced(state, message.step)


def _mark_broken(state: KeeperState, process: Process) -> KeeperState:
    broken_s = state.broken_s if state.broken else state.now_s
    return replace(state, broken=tuple(dict.fromkeys((*state.broken, process.id))), broken_s=broken_s)


def _joined(state: KeeperState, process: Process, message: Joined) -> KeeperState:
    """It has state from now on, even if its group is over already."""
    state = put_process(state, replace(process, has_state=True))
    if not _counts(state, process, message.generation) or state.stage == "empty":
        return state
    state = replace(
        _spoke(state, process),
        joined=tuple(dict.fromkeys((*state.joined, process.id))),
        step=message.step,
        lost_steps=max(state.lost_steps, message.lost_steps),
    )
    return _together(state) if set(state.joined) == set(state.members) else state


def _together(state: KeeperState) -> KeeperState:
    """All train. What had to be healed is."""
    if state.stage == "forming":
        state = replace(state, form_s=max(state.form_s, state.now_s - state.since_s))
    if state.trouble is not None and not state.broken:
        state = replace(say(state, _healed(state)), trouble=None)
    state = advanced(state, state.step)
    return replace(
        state, stage="running", since_s=state.now_s, posted=(), timeouts=0, rollback=False, at_most_step=-1
    )


def _healed(state: KeeperState) -> Emit:
    trouble = state.trouble
    assert trouble is not None
    known = state.high_step - state.step if len(state.fresh) == len(state.members) else 0
    return Emit(
        kind="healed",
        what=trouble.ladder,
        subjects=trouble.subjects,
        generation=state.generation,
        step=state.step,
        lost_steps=max(state.lost_steps, known),
        began_s=trouble.began_s,
        detected_s=trouble.detected_s,
        diagnosed_s=trouble.diagnosed_s or trouble.detected_s,
        regrouped_s=trouble.regrouped_s,
        resumed_s=state.now_s,
    )


def _failed(state: KeeperState, process: Process, message: Failed) -> KeeperState:
    if saved(state):
        return ending(state, process)
    rank = rank_of(state, process.id)
    again = any(
        error == message.error and (place != rank or step == message.step or who != process.id)
        for who, place, step, error in state.errors
    )
    known = (*state.errors, (process.id, rank, message.step, message.error))
    state = replace(state, errors=known[-state.policy.errors_kept :], record_due=True)
    traceback = message.traceback[-TEXT_KEPT:]
    if message.final or message.exit_code in USER_ERRORS:
        state = end(state, message.error, message.exit_code or 1, traceback)
    elif again:
        state = end(state, f"the same error twice: {message.error}", message.exit_code or 1, traceback)
    if rank >= 0:
        state = climb(fault(state, "crash", message.error, name_of(state, rank)), "restart_rank")
        state = crashed(count_node(count_restart(state, rank), process.node), message.error)
    return ending(state, process)


def _leaving(state: KeeperState, process: Process, message: Leaving) -> KeeperState:
    state = put_process(state, replace(process, left=True))
    if process.id not in state.members:
        return state
    left = tuple(dict.fromkeys((*state.left, process.id)))
    return replace(state, left=left, left_s=state.now_s, record_due=True)


_HEARD: dict[type, Callable[[KeeperState, Process, Any], KeeperState]] = {
    Hello: _hello,
    Warm: _warm,
    Posted: _posted,
    Broken: _broken,
    Joined: _joined,
    Failed: _failed,
    Leaving: _leaving,
}
