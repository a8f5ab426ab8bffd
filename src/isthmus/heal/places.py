"""Which process takes which place, and which node each place is meant to be on."""

from msgspec.structs import replace

from isthmus.heal.state import KeeperState, Node, Process


def usable(state: KeeperState, name: str) -> bool:
    node = state.nodes.get(name)
    return node is not None and node.health == "well"


def holders(state: KeeperState) -> tuple[str, ...]:
    """Members that go on, at the place they have; '' where one is to be found."""
    places = [""] * state.world_size
    for rank, name in enumerate(state.members[: state.world_size]):
        process = state.processes.get(name)
        if process is not None and process.stage == "member" and not process.left:
            places[rank] = name
    return tuple(places)


def draft(state: KeeperState) -> tuple[str, ...]:
    """The next group: a standby of the same node first, then of one that has room; '' where none is warm."""
    places = list(holders(state))
    free = {name: node.slots for name, node in state.nodes.items()}
    for name in places:
        if name:
            free[state.processes[name].node] = free.get(state.processes[name].node, 0) - 1
    for at_home in (True, False):
        for place, name in enumerate(places):
            if name:
                continue
            found = _standby(state, places, free, state.homes[place] if at_home else "")
            if found is not None:
                places[place] = found.id
                free[found.node] -= 1
    return tuple(places)


def _standby(state: KeeperState, taken: list[str], free: dict[str, int], home: str) -> Process | None:
    for process in state.processes.values():
        fits = process.stage == "warm" and process.id not in taken and usable(state, process.node)
        if fits and free.get(process.node, 0) > 0 and (not home or process.node == home):
            return process
    return None


def settled(state: KeeperState) -> tuple[str, ...]:
    """Homes: where the holder is, else where it was while that node is usable, else a node with room, a
    spare one last."""
    places = holders(state)
    homes = [
        state.processes[name].node if name else home if usable(state, home) else ""
        for name, home in zip(places, state.homes, strict=True)
    ]
    for place, home in enumerate(homes):
        if not home:
            homes[place] = _room(state, homes)
    return tuple(homes)


def _room(state: KeeperState, homes: list[str]) -> str:
    candidates = [node for node in state.nodes.values() if usable(state, node.name)]
    for node in sorted(candidates, key=lambda node: node.spare and node.name not in homes):
        if homes.count(node.name) < node.slots:
            return node.name
    return ""


def wanted(state: KeeperState, node: Node) -> tuple[int, ...]:
    """Places without a holder that are meant to be on this node."""
    return tuple(
        place
        for place, (name, home) in enumerate(zip(holders(state), state.homes, strict=True))
        if not name and home == node.name
    )


def waiting(state: KeeperState, node: str) -> list[Process]:
    """Its processes without a place."""
    return [p for p in state.processes.values() if p.node == node and p.stage in ("spawned", "warm")]


def standbys(state: KeeperState, node: Node) -> int:
    """To keep warm there. A spare does nothing else, so that it can stand in for a whole node."""
    if node.spare and node.name not in state.homes:
        return max(node.slots, state.policy.standbys)
    return state.policy.standbys


def seat(state: KeeperState, places: tuple[str, ...]) -> KeeperState:
    """Ranks are dense: places nobody takes come last."""
    filled = [name for name in places if name]
    homes = [state.processes[name].node for name in filled]
    empty = [home for name, home in zip(places, state.homes, strict=True) if not name]
    nodes = {
        name: replace(node, spare=False) if name in homes else node for name, node in state.nodes.items()
    }
    return replace(state, members=tuple(filled), homes=(*homes, *empty), nodes=nodes)
