"""A fault is taken note of; a process is lost; a group is over. All return the state after it."""

from msgspec.structs import replace

from isthmus.heal.actions import AnyAction, Emit, End, Kill, Tell
from isthmus.heal.messages import Abandon
from isthmus.heal.state import KeeperState, Node, Process, Trouble

USER_ERRORS = (2, 3, 5, 6)
"""Exit codes of the program for what a person must change."""
LADDER = ("grow", "retry", "restart_rank", "replace_node", "rollback", "shrink")


def say(state: KeeperState, *actions: AnyAction) -> KeeperState:
    return replace(state, outbox=(*state.outbox, *actions))


def name_of(state: KeeperState, rank: int) -> str:
    return f"rank-{state.site}-{rank}"


def rank_of(state: KeeperState, process: str) -> int:
    return state.members.index(process) if process in state.members else -1


def live(state: KeeperState) -> list[Process]:
    """Members that are there and go on."""
    found = (state.processes.get(name) for name in state.members)
    return [process for process in found if process and process.stage == "member" and not process.left]


def saved(state: KeeperState) -> bool:
    """Rank 0 left in order: the last save is sound, nothing is healed any more."""
    return bool(state.members) and state.members[0] in state.left


def put_node(state: KeeperState, node: Node) -> KeeperState:
    return replace(state, nodes={**state.nodes, node.name: node})


def put_process(state: KeeperState, process: Process) -> KeeperState:
    return replace(state, processes={**state.processes, process.id: process})


def drop_process(state: KeeperState, process: str) -> KeeperState:
    return replace(state, processes={key: kept for key, kept in state.processes.items() if key != process})


def alert(state: KeeperState, text: str, *subjects: str) -> KeeperState:
    return say(state, Emit(kind="alert", text=text, subjects=subjects, generation=state.generation))


def end(state: KeeperState, reason: str, exit_code: int = 1, traceback: str = "") -> KeeperState:
    """The run fails. The first verdict stands."""
    if state.verdict is not None:
        return state
    return replace(state, verdict=End("failed", reason, exit_code, traceback))


def fault(state: KeeperState, what: str, text: str, *subjects: str, began_s: float = -1.0) -> KeeperState:
    """Tells the journal, and adds to what is being healed."""
    began_s = state.now_s if began_s < 0 else began_s
    told = Emit(
        kind="fault",
        what=what,
        text=text,
        subjects=subjects,
        generation=state.generation,
        step=state.step,
        began_s=began_s,
        detected_s=state.now_s,
    )
    known = state.trouble or Trouble(began_s=began_s, detected_s=state.now_s)
    new = tuple(subject for subject in subjects if subject not in known.subjects)
    known = replace(known, began_s=min(known.began_s, began_s), subjects=(*known.subjects, *new))
    return say(replace(state, trouble=known), told)


def climb(state: KeeperState, ladder: str) -> KeeperState:
    """What is done about it is at least this."""
    trouble = state.trouble
    if trouble is None or LADDER.index(ladder) <= LADDER.index(trouble.ladder):
        return state
    return replace(state, trouble=replace(trouble, ladder=ladder))


def break_group(state: KeeperState) -> KeeperState:
    """This generation is over: its members break their sockets and wait for the next, or end with it."""
    if state.stage == "empty":
        return state
    members = live(state)
    told = (Tell(process.id, Abandon(state.generation)) for process in members if process.stays)
    state = replace(say(state, *told), stage="empty", since_s=state.now_s)
    for process in members:
        if not process.stays:
            state = doom(state, process)
    return state


def doom(state: KeeperState, process: Process) -> KeeperState:
    """Kills it. It takes part in nothing from now on; that it is gone is known when it was seen."""
    if process.stage == "doomed" and process.id in state.unsure:
        return state
    return say(_without(state, replace(process, stage="doomed")), Kill(process.id))


def _without(state: KeeperState, process: Process) -> KeeperState:
    """A doomed process: if it is a member, its group is over."""
    state = put_process(state, replace(process, since_s=state.now_s))
    if process.id not in state.members or process.id in state.gone:
        return state
    over_s = state.now_s + state.policy.lease_s
    state = replace(state, unsure={**state.unsure, process.id: state.unsure.get(process.id, over_s)})
    return state if process.id in state.left else break_group(state)


def ending(state: KeeperState, process: Process) -> KeeperState:
    """It said that an error ends it: the others need not wait for its exit."""
    return _without(state, replace(process, stage="doomed"))


def lose(state: KeeperState, process: Process, certain: bool) -> KeeperState:
    """It is gone, or its node is out of reach."""
    state = drop_process(state, process.id)
    if process.id not in state.members:
        return state
    if certain:
        unsure = {key: value for key, value in state.unsure.items() if key != process.id}
        state = replace(state, unsure=unsure, gone=tuple(dict.fromkeys((*state.gone, process.id))))
    elif process.id not in state.unsure:
        over_s = state.now_s + state.policy.lease_s
        state = replace(state, unsure={**state.unsure, process.id: over_s})
    return state if process.id in state.left else break_group(state)


def count_restart(state: KeeperState, rank: int) -> KeeperState:
    """One more for this place; too many without a step forward end the run."""
    recent = _recent(state, state.restarts.get(rank, ()))
    state = replace(state, restarts={**state.restarts, rank: (*recent, state.now_s)})
    if len(recent) < state.policy.restarts:
        return state
    return end(state, f"{name_of(state, rank)} was restarted {len(recent)} times without a step forward")


def count_node(state: KeeperState, name: str) -> KeeperState:
    node = state.nodes.get(name)
    if node is None:
        return state
    recent = _recent(state, node.failures)[-8:]
    return put_node(state, replace(node, failures=(*recent, state.now_s)))


def _recent(state: KeeperState, times: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(at_s for at_s in times if at_s > state.now_s - state.policy.window_s)


def doubt(state: KeeperState, name: str, why: str) -> KeeperState:
    """A node that something is wrong with is taken out if it trains nothing; else people are told."""
    if any(process.node == name for process in live(state)):
        return alert(state, f"node {name}: {why}", f"node-{name}")
    return condemn(state, name, why)


def cannot_start(state: KeeperState, name: str, why: str) -> KeeperState:
    """One more process that ended before it was warm. After too many nothing is spawned there for a while:
    ranks that train are no worse for it."""
    node = state.nodes.get(name)
    if node is None:
        return state
    failures = node.spawn_failures + 1
    if failures < state.policy.spawn_failures:
        return put_node(state, replace(node, spawn_failures=failures))
    barred_s = state.now_s + state.policy.recheck_s
    state = put_node(state, replace(node, spawn_failures=failures - 1, barred_s=barred_s))
    return doubt(state, name, f"{failures} processes in a row did not start: {why}")


def condemn(state: KeeperState, name: str, why: str) -> KeeperState:
    """Takes a node out: its processes end, and it is checked before it returns as a spare."""
    node = state.nodes.get(name)
    if node is None or node.health not in ("well", "away"):
        return state
    strikes = node.strikes + 1
    stays_out = strikes >= state.policy.strikes
    health = "out" if stays_out else "suspect"
    state = put_node(state, replace(node, health=health, strikes=strikes, spare=True, wait_s=state.now_s))
    state = replace(state, record_due=True)
    for process in list(state.processes.values()):
        if process.node == name and process.stage != "doomed":
            state = doom(state, process)
    note = f"node {name} stays out: {why}" if stays_out else f"node {name} is taken out to be checked: {why}"
    return climb(alert(state, note, f"node-{name}"), "replace_node")


def advanced(state: KeeperState, step: int) -> KeeperState:
    """A step that was never done before is progress: what was counted since the last begins anew."""
    state = replace(state, step=max(state.step, step))
    if step <= state.high_step:
        return state
    return replace(state, high_step=step, opened=0, retries=0, barren=0, restarts={})


def crashed(state: KeeperState, text: str) -> KeeperState:
    """The program ended by itself: without a step forward it will again."""
    state = replace(state, barren=state.barren + 1)
    if state.barren < state.policy.barren:
        return state
    return end(state, f"{state.barren} crashes in a row without a step forward, the last one: {text}")


def roll_back(state: KeeperState, step: int) -> KeeperState:
    state = climb(state, "rollback")
    state = replace(state, rollback=True, at_most_step=max(step, 0), record_due=True)
    return break_group(state)


def check_failed(state: KeeperState, node: Node, text: str) -> KeeperState:
    strikes = node.strikes + 1
    if strikes >= state.policy.strikes:
        state = put_node(state, replace(node, health="out", strikes=strikes))
        return alert(state, f"node {node.name} stays out: its check failed: {text}", f"node-{node.name}")
    wait_s = state.now_s + state.policy.recheck_s
    return put_node(state, replace(node, health="suspect", strikes=strikes, wait_s=wait_s))
