"""Rules for processes and groups: where places are, what is spawned, when the next group is made."""

from msgspec.structs import replace

from isthmus.heal.actions import Remember, Spawn, Tell
from isthmus.heal.hear import form
from isthmus.heal.messages import Leave
from isthmus.heal.places import draft, holders, seat, settled, standbys, waiting, wanted
from isthmus.heal.state import KeeperState, Process, Trouble, record
from isthmus.heal.trouble import break_group, climb, doom, end, live, put_process, say


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
        if node.health != "well" or state.now_s < node.barred_s:
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
    if state.leave_told and state.leave_regroups >= state.policy.leave_regroups:
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
    if state.leave_told:
        state = replace(state, leave_regroups=state.leave_regroups + 1)
    state = seat(state, places)
    fresh = (
        rank
        for rank, name in enumerate(state.members)
        if state.rollback or not state.processes[name].has_state
    )
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
        fresh=tuple(fresh),
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
    trouble = Trouble(began_s=state.now_s, detected_s=state.now_s, ladder="grow")
    return break_group(replace(state, trouble=state.trouble or trouble))


def leave(state: KeeperState) -> KeeperState | None:
    """Once a generation, when it runs."""
    if not state.leaving or state.stage != "running" or state.leave_told == state.generation:
        return None
    told = (Tell(process.id, Leave(state.leaving)) for process in live(state))
    return replace(say(state, *told), leave_told=state.generation)
