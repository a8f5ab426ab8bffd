"""A node: its agent, what it reports, its memory, and what becomes of both when the network is cut."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from isthmus.heal import messages as m
from isthmus.heal.events import AnyEvent, Checked, Exited, NodeJoined, NodeLost, Said, Started
from isthmus.heal.sim.process import SimProcess

if TYPE_CHECKING:
    from isthmus.heal.sim.world import World

CONTACT_S = (1.5, 3.0)
"""Without a word of an agent until the keeper holds its node for lost."""


class SimNode:
    def __init__(self, world: "World", name: str, slots: int, spare: bool):
        self.world, self.name, self.slots, self.spare = world, name, slots, spare
        self.up = True
        self.processes: dict[str, SimProcess] = {}
        self.copies: dict[str, tuple[int, int]] = {}
        """Process -> newest copy of its state in this node's memory; outlives the process."""
        self.pages: dict[str, int] = {}
        self.session = 0
        """Start of the keeper that it has joined; 0: none."""
        self.lives = 0
        self.away_s = 0.0
        self.silent = False
        """Cut off from the keeper, which does not know it yet."""
        self.held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.last_s: dict[tuple[str, str], float] = {}
        self.bad_check = False

    # ---- to and from the keeper, in order for each process

    def linked(self) -> bool:
        return self.up and self.world.keeper.alive and self.session == self.world.keeper.boots

    def carry(self, channel: tuple[str, str], call: Callable[..., None], *args: Any) -> None:
        when_s = max(
            self.last_s.get(channel, 0.0), self.world.time.now_s + self.world.time.some(0.0005, 0.02)
        )
        self.last_s[channel] = when_s
        self.world.time.at(when_s, self._deliver, self.session, self.lives, call, args)

    def _deliver(self, session: int, lives: int, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if session != self.session or lives != self.lives or not self.linked():
            return
        if self.silent or self.held:
            self.held.append((call, args))
            return
        call(*args)

    def report(self, event: AnyEvent, process: str = "") -> None:
        if self.linked():
            self.carry(("up", process), self.world.keeper.feed, event)

    def pass_up(self, process: SimProcess, message: m.RankMessage) -> None:
        self.report(Said(process.name, message, now_s=0.0), process.name)

    # ---- what the keeper asks for

    def spawn(self, name: str) -> None:
        process = SimProcess(self.world, self, name)
        if process.alive:
            self.processes[name] = process
            self.report(Started(name, self.name, now_s=0.0), name)

    def tell(self, name: str, message: m.KeeperMessage) -> None:
        process = self.processes.get(name)
        if process is not None:
            process.hear(message)

    def kill(self, name: str) -> None:
        process = self.processes.get(name)
        if process is None:
            self.report(Exited(name, None, "no such process", now_s=0.0), name)
        else:
            process.exit(-9)

    def check(self) -> None:
        ok, self.bad_check = not self.bad_check, False
        self.report(Checked(self.name, ok, "" if ok else "too slow", now_s=0.0))

    def reap(self, process: SimProcess, code: int, words: str) -> None:
        self.processes.pop(process.name, None)
        self.pages.pop(process.name, None)
        self.report(Exited(process.name, code, words, now_s=0.0), process.name)

    # ---- coming and going

    def join(self) -> None:
        """The agent reaches a keeper that does not know it, or holds it for lost."""
        keeper = self.world.keeper
        if not self.up or not keeper.alive or self.silent or self.session == keeper.boots:
            return
        self.session = keeper.boots
        self.lives += 1
        self.held = []
        self.report(NodeJoined(self.name, self.slots, self.spare, now_s=0.0))
        for name, process in list(self.processes.items()):
            self.carry(("up", ""), keeper.feed, Started(name, self.name, now_s=0.0))
            self.last_s[("up", name)] = self.last_s[("up", "")]
            process.again()

    def leave(self) -> None:
        """The keeper is not reached any more: after the lease no rank here may run on."""
        self.session = 0
        self.held = []
        self.away_s = self.world.time.now_s
        self.world.time.later(self.world.policy.lease_s, self._lease_over, self.away_s)

    def _lease_over(self, away_s: float) -> None:
        if not self.session and self.away_s == away_s and self.up:
            for process in list(self.processes.values()):
                process.exit(-9)

    def cut(self) -> None:
        """Its agent's words do not arrive."""
        if self.silent or not self.up or not self.session:
            return
        self.silent = True
        cut_s = self.away_s = self.world.time.now_s
        self.world.time.later(self.world.time.some(*CONTACT_S), self._missed, self.session, cut_s)
        self.world.time.later(self.world.policy.lease_s, self._cut_lease, cut_s)

    def _missed(self, session: int, cut_s: float) -> None:
        if self.silent and self.session == session and self.away_s == cut_s:
            self.session = 0
            self.held = []
            self.world.keeper.feed(NodeLost(self.name, now_s=0.0))

    def _cut_lease(self, cut_s: float) -> None:
        if self.silent and self.away_s == cut_s:
            for process in list(self.processes.values()):
                process.exit(-9)

    def mend(self) -> None:
        self.silent = False
        if not self.up:
            return
        if self.session == self.world.keeper.boots:
            held, self.held = self.held, []
            for call, args in held:
                call(*args)
        else:
            self.join()

    def crash(self, down_s: float) -> None:
        """Power off: processes and memory are gone."""
        if not self.up:
            return
        session, self.session = self.session, 0
        for process in list(self.processes.values()):
            process.exit(-9)
        self.up, self.silent, self.held = False, False, []
        self.processes, self.copies, self.pages = {}, {}, {}
        self.lives += 1
        if session and session == self.world.keeper.boots:
            self.world.time.later(self.world.time.some(0.2, 3.0), self._lost, session)
        self.world.time.later(down_s, self._boot)

    def _lost(self, session: int) -> None:
        if session == self.world.keeper.boots and self.session != session:
            self.world.keeper.feed(NodeLost(self.name, now_s=0.0))

    def _boot(self) -> None:
        self.up = True
        self.world.time.later(3.5, self.join)
