"""The keeper's agent: one action after the other, a record on disk, a crash between any two of them."""

from collections import deque
from typing import TYPE_CHECKING

from msgspec.structs import replace

from isthmus.heal import state as states
from isthmus.heal.actions import AnyAction, Check, Emit, End, Kill, Record, Remember, Spawn, Tell
from isthmus.heal.decide import decide
from isthmus.heal.events import AnyEvent, Tick
from isthmus.heal.state import KeeperState, initial

if TYPE_CHECKING:
    from isthmus.heal.sim.site import SimNode
    from isthmus.heal.sim.world import World

TICK_S = 0.1
QUEUE = 10_000


class SimKeeper:
    def __init__(self, world: "World"):
        self.world = world
        self.name = "keeper"
        self.alive = False
        self.boots = 0
        self.record: Record | None = None
        self.state: KeeperState = initial("site", world.world_size, world.policy)
        self.queue: deque[AnyEvent] = deque()
        self.batch: deque[AnyAction] = deque()
        self.where: dict[str, SimNode] = {}

    def boot(self) -> None:
        if self.alive:
            return
        self.alive = True
        self.boots += 1
        self.queue.clear()
        self.batch.clear()
        self.where = {}
        now_s = self.world.time.now_s
        if self.record is None:
            self.state = replace(initial("site", self.world.world_size, self.world.policy), now_s=now_s)
        else:
            self.state = recover(self.record, self.world, now_s)
        for node in self.world.nodes.values():
            if not node.silent:
                self.world.time.later(self.world.time.some(0.05, 0.8), node.join)
        self.world.time.later(TICK_S, self._tick, self.boots)

    def crash(self) -> None:
        if not self.alive:
            return
        self.alive = False
        for node in self.world.nodes.values():
            if node.session:
                node.leave()

    def _tick(self, boots: int) -> None:
        if not self.alive or boots != self.boots:
            return
        pages = [max(node.pages.values(), default=-1) for node in self.world.nodes.values() if node.linked()]
        self.feed(Tick(max(pages, default=-1), now_s=0.0))
        self.world.time.later(TICK_S, self._tick, boots)

    # ---- events in, actions out

    def feed(self, event: AnyEvent) -> None:
        if not self.alive:
            return
        self.queue.append(event)
        assert len(self.queue) < QUEUE, "the keeper does not keep up"
        if len(self.queue) == 1 and not self.batch:
            self.world.time.later(0.0, self._next, self.boots)

    def _next(self, boots: int) -> None:
        if not self.alive or boots != self.boots or self.batch or not self.queue:
            return
        event = replace(self.queue.popleft(), now_s=self.world.time.now_s)
        self.state, actions = decide(self.state, event)
        self.world.checks.decided(self.state)
        self.batch.extend(actions)
        self._act(boots)

    def _act(self, boots: int) -> None:
        if not self.batch:
            if self.queue:
                self.world.time.later(0.0, self._next, boots)
            return
        action = self.batch[0]
        self.world.awaited(self, f"keeper {type(action).__name__}")
        delay_s = self.world.time.some(0.001, 0.02) if isinstance(action, Remember) else 0.0002
        self.world.time.later(delay_s, self._acted, boots)

    def _acted(self, boots: int) -> None:
        if not self.alive or boots != self.boots:
            return
        self._carry_out(self.batch.popleft())
        self._act(boots)

    def _carry_out(self, action: AnyAction) -> None:
        match action:
            case Remember():
                self.record = action.record
            case Spawn():
                node = self.where[action.process] = self.world.nodes[action.node]
                node.carry(("down", action.process), node.spawn, action.process)
            case Tell():
                self.world.checks.told(action)
                node = self._node(action.process)
                node.carry(("down", action.process), node.tell, action.process, action.message)
            case Kill():
                node = self._node(action.process)
                self.world.killed(action.process)
                node.carry(("down", action.process), node.kill, action.process)
            case Check():
                self.world.time.later(1.0, self.world.nodes[action.node].check)
            case Emit():
                self.world.checks.emitted(action)
            case End():
                self.world.ended = action

    def _node(self, process: str) -> "SimNode":
        return self.world.nodes[process.split("/", maxsplit=1)[0]]


def recover(record: Record, world: "World", now_s: float) -> KeeperState:
    return states.recover("site", record, world.policy, now_s)
