"""What is to be done: named rules, the first that has something to do does it. Each takes the state and
returns the one after it, or None."""

from collections.abc import Callable

from msgspec.structs import replace

from isthmus.heal.actions import Check, End, Kill, Remember, Spawn, Tell
from isthmus.heal.hear import form
from isthmus.heal.messages import Leave
from isthmus.heal.places import draft, holders, seat, settled, standbys, usable, waiting, wanted
from isthmus.heal.state import KeeperState, Process, record
from isthmus.heal.trouble import (
    alert,
    break_group,
    check_failed,
    climb,
    condemn,
    doom,
    end,
    fault,
    live,
    lose,
    name_of,
    put_node,
    put_process,
    rank_of,
    saved,
    say,
)

DOOMED_S = 5.0
"""From SIGKILL to the exit; one that takes longer hangs in the kernel."""
FAILING_S = 2.0
"""From a process's last word to its exit."""


def plan(state: KeeperState) -> KeeperState | None:
    for rule in ENDINGS if saved(state) else RULES:
        after = rule(state)
        if after is not None:
            return after
    return None


# ---- the end


def close(state: KeeperState) -> KeeperState | None:
    """A verdict: everything ends."""
    if state.verdict is None:
        return None
    kills = [Kill(process.id) for process in state.processes.values() if process.stage != "doomed"]
    return replace(say(state, *kills, state.verdict), ended=True, processes={}, unsure={})


def finish(state: KeeperState) -> KeeperState | None:
    """Rank 0 left in order, so the last save is sound. The others have a while to follow."""
    if not saved(state):
        return None
    here = [name for name in state.members if name in state.processes]
    if here and state.now_s < state.left_s + state.policy.exit_s:
        return None
    return replace(state, verdict=End("done", state.leaving or "finished", 0))


def never_began(state: KeeperState) -> KeeperState | None:
    if not state.leaving or state.generation > 0:
        return None
    return replace(state, verdict=End("done", state.leaving, 0))


def leave_late(state: KeeperState) -> KeeperState | None:
    if not state.leaving or state.now_s < state.leave_s + state.policy.leave_timeout_s:
        return None
    return end(state, f"the site did not end in order within {state.policy.leave_timeout_s:.0f} s")


def nobody(state: KeeperState) -> KeeperState | None:
    """Nowhere to run, for longer than a node needs to come back."""
    patience_s = state.policy.start_timeout_s
    if state.stage != "empty" or live(state) or any(state.homes) or state.now_s < state.since_s + patience_s:
        return None
    return end(state, f"no node can hold a rank for {patience_s:.0f} s")


def stalled(state: KeeperState) -> KeeperState | None:
    if state.opened <= state.policy.generations:
        return None
    return end(state, f"no step forward in {state.opened} generations")


# ---- what takes too long


def remember(state: KeeperState) -> KeeperState | None:
    if not state.record_due:
        return None
    return replace(say(state, Remember(state.generation, record(state))), record_due=False)


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
            return _slow_start(state, process)
    return None


def _slow_start(state: KeeperState, process: Process) -> KeeperState:
    state = doom(state, process)
    node = state.nodes.get(process.node)
    if node is None:
        return state
    state = put_node(state, replace(node, spawn_failures=node.spawn_failures + 1))
    if node.spawn_failures + 1 < state.policy.spawn_failures:
        return state
    return condemn(state, node.name, "no process gets warm there in time")


def never_gone(state: KeeperState) -> KeeperState | None:
    """A doomed process that does not end. It takes part in nothing; its node is suspect."""
    for process in state.processes.values():
        if process.stage == "doomed" and state.now_s >= process.since_s + DOOMED_S:
            state = say(lose(state, process, certain=False), Kill(process.id))
            return condemn(state, process.node, f"{process.id} does not end when it is killed")
    return None


def check(state: KeeperState) -> KeeperState | None:
    for node in state.nodes.values():
        if node.health == "suspect" and state.now_s >= node.wait_s:
            wait_s = state.now_s + state.policy.check_timeout_s
            return say(put_node(state, replace(node, health="checking", wait_s=wait_s)), Check(node.name))
        if node.health == "checking" and state.now_s >= node.wait_s:
            return check_failed(state, node, "no answer")
    return None


# ---- the ladder


def mend(state: KeeperState) -> KeeperState | None:
    """The group broke and nobody died: once all have said so, or a death had time to be seen, anew."""
    if not state.broken or state.stage == "empty":
        return None
    whole = all(process.id in state.broken for process in live(state))
    if state.now_s < state.broken_s + state.policy.settle_s and not whole:
        return None
    return _again(fault(state, "comm_error", "the group broke, no process died"))


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


# ---- processes and groups


def house(state: KeeperState) -> KeeperState | None:
    if state.stage == "recovering":
        return None
    homes = settled(state)
    return replace(state, homes=homes) if homes != state.homes else None


def spawn(state: KeeperState) -> KeeperState | None:
    """First for places without a holder; standbys once nobody waits for a place."""
    going = state.stage != "empty" or live(state)
    if state.stage == "recovering" or (going and (state.leaving or (state.left and state.stage != "empty"))):
        return None
    for node in state.nodes.values():
        if node.health != "well":
            continue
        places = wanted(state, node)
        have = len(waiting(state, node.name))
        want = len(places) + (standbys(state, node) if state.stage == "running" else 0)
        if have < want:
            return _spawn(state, node.name, places[have] if have < len(places) else None)
    return None


def _spawn(state: KeeperState, node: str, place: int | None) -> KeeperState:
    name = f"{node}/{state.boot}.{state.spawned + 1}"
    state = replace(state, spawned=state.spawned + 1)
    state = put_process(state, Process(id=name, node=node, since_s=state.now_s))
    return say(state, Spawn(node, name, place))


def surplus(state: KeeperState) -> KeeperState | None:
    """More standbys than a node keeps: the place it was started for was filled from elsewhere."""
    if state.stage != "running":
        return None
    for node in state.nodes.values():
        extra = waiting(state, node.name)
        keep = len(wanted(state, node)) + standbys(state, node) if node.health == "well" else 0
        if len(extra) > keep:
            last = max(extra, key=lambda process: (process.stage == "spawned", process.since_s))
            return doom(state, last)
    return None


def gather(state: KeeperState) -> KeeperState | None:
    """No group: a new one as soon as every place is filled, or cannot be."""
    if state.stage != "empty" or _fenced(state):
        return None
    places = draft(state)
    if not any(places) or not _enough(state, places):
        return None
    if state.leaving and state.leave_regroups >= state.policy.leave_regroups:
        return end(state, f"ranks were lost while the site was leaving ({state.leaving})")
    return _open(state, places)


def _fenced(state: KeeperState) -> bool:
    """All of the last group may still run where nobody sees them: two groups must never step at once."""
    return bool(state.members) and all(state.unsure.get(name, 0.0) > state.now_s for name in state.members)


def _enough(state: KeeperState, places: tuple[str, ...]) -> bool:
    missing = [home for name, home in zip(places, state.homes, strict=True) if not name]
    if not missing:
        return True
    if state.leaving and any(holders(state)):
        return True
    wait_s = state.policy.shrink_wait_s if state.generation else state.policy.start_timeout_s
    return not any(missing) and state.now_s >= state.since_s + wait_s


def _open(state: KeeperState, places: tuple[str, ...]) -> KeeperState:
    """The number is on disk before anybody hears it."""
    before = len(state.members)
    if state.leaving and state.generation:
        state = replace(state, leave_regroups=state.leave_regroups + 1)
    state = seat(state, places)
    if len(state.members) < before:
        state = climb(state, "shrink")
    for name in state.members:
        state = put_process(state, replace(state.processes[name], stage="member"))
    trouble = state.trouble
    state = replace(
        state,
        generation=state.generation + 1,
        opened=state.opened + 1,
        stage="forming",
        since_s=state.now_s,
        joined=(), spoke=(), broken=(), posted=(), gone=(), left=(), unsure={},
        left_s=0.0,
        lost_steps=0,
        trouble=None if trouble is None else replace(trouble, regrouped_s=state.now_s),
        record_due=False,
    )  # fmt: skip
    state = say(state, Remember(state.generation, record(state)))
    told = (Tell(name, form(state, rank)) for rank, name in enumerate(state.members))
    return say(state, *told)


def grow(state: KeeperState) -> KeeperState | None:
    """A place can be filled again. Not while another one for it is still warming up."""
    if state.stage != "running" or len(state.members) >= state.world_size or state.leaving or state.left:
        return None
    places = draft(state)
    gained = sum(map(bool, places)) > len(state.members)
    pending = any(home and not name for name, home in zip(places, state.homes, strict=True))
    if not gained or pending or state.broken:
        return None
    state = fault(
        state, "shrunk", f"{len(state.members)} of {state.world_size} places are filled: one more is"
    )
    return break_group(climb(state, "grow"))


def leave(state: KeeperState) -> KeeperState | None:
    """Once a generation, when it runs."""
    if not state.leaving or state.stage != "running" or state.leave_told == state.generation:
        return None
    told = (Tell(process.id, Leave(state.leaving)) for process in live(state))
    return replace(say(state, *told), leave_told=state.generation)


ENDINGS: tuple[Callable[[KeeperState], KeeperState | None], ...] = (close, remember, finish)
RULES: tuple[Callable[[KeeperState], KeeperState | None], ...] = (
    close, finish, never_began, leave_late, nobody, stalled, remember, unheard,
    never_warm, never_gone, check, mend, form_late, replace_node,
    house, gather, grow, leave, spawn, surplus,
)  # fmt: skip
