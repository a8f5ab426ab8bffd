"""What the members of a group exchange: collectives between endpoints that are open, on nodes that reach each
other.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isthmus.heal.sim.process import SimProcess
    from isthmus.heal.sim.world import World

CLOSED_S = (0.001, 0.15)
"""Until a peer's closed socket is noticed."""

Key = tuple[tuple[str, ...], tuple[Any, ...]]


class Fabric:
    def __init__(self, world: "World"):
        self.world = world
        self.open: dict[str, SimProcess] = {}
        self.waiting: dict[Key, dict[str, tuple[SimProcess, int, Any]]] = {}
        """Collective -> endpoint -> (process, its wait, what it gives)."""

    def reaches(self, one: str, other: str) -> bool:
        first, second = self.open.get(one), self.open.get(other)
        return (
            first is not None
            and second is not None
            and not self.world.is_cut(first.node.name, second.node.name)
        )

    def arrive(self, process: "SimProcess", endpoint: str, key: Key, value: Any) -> None:
        """It waits until all members are there, one is seen to be gone, or it has waited long enough."""
        self.waiting.setdefault(key, {})[endpoint] = (process, process.waits, value)
        if any(other not in self.open for other in key[0]):
            self._fail(process, process.waits)
        else:
            self.settle(key)

    def settle(self, key: Key) -> None:
        there = self.waiting.get(key, {})
        group = key[0]
        here = all(
            end in there and end in self.open and there[end][0].waits == there[end][1] for end in group
        )
        if not here or not all(self.reaches(a, b) for a in group for b in group if a < b):
            return
        del self.waiting[key]
        values = [there[end][2] for end in group]
        self.world.checks.exchanged(group, key[1], values)
        for process, wait, _ in there.values():
            self.world.time.later(self.world.time.some(0.001, 0.05), process.wake, wait, values)

    def close(self, endpoint: str) -> None:
        """Its owner broke it or died: who waits for it may notice, or may have what it gave already."""
        owner = self.open.pop(endpoint, None)
        for key in list(self.waiting):
            if endpoint in key[0]:
                for process, wait, _ in self.waiting[key].values():
                    if owner is None or not self.world.is_cut(process.node.name, owner.node.name):
                        self._fail(process, wait)
                self.waiting[key].pop(endpoint, None)
                if not self.waiting[key]:
                    del self.waiting[key]
        for process in self.world.alive():
            if process.delivering and endpoint in process.group and self.world.time.random.random() < 0.5:
                self._fail(process, process.waits)

    def _fail(self, process: "SimProcess", wait: int) -> None:
        self.world.time.later(self.world.time.some(*CLOSED_S), process.fail, wait, "closed by peer")

    def mended(self) -> None:
        for key in list(self.waiting):
            self.settle(key)
