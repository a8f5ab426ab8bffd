"""A process that is or may become a rank: a coroutine that waits at every step of the protocol.

Each wait has a name; a fault can strike at any of them.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from isthmus.heal import messages as m
from isthmus.heal.agree import Agreement
from isthmus.heal.sim import model, rank

if TYPE_CHECKING:
    from isthmus.heal.sim.site import SimNode
    from isthmus.heal.sim.world import World

Wait = tuple[str, float | None, bool]
"""(name, seconds or until woken, whether an abandoned group ends it)"""


class BrokenError(Exception):
    """The group failed."""


class SimProcess:
    def __init__(self, world: "World", node: "SimNode", name: str):
        self.world, self.node, self.name = world, node, name
        self.pid = world.next_pid()
        self.alive = True
        self.doomed = False
        """The keeper told its agent to kill it."""
        self.stopped = False
        self.waits = 0
        self.wait: Wait = ("", None, False)
        self.held: list[tuple[Any, ...]] = []
        """What comes while it is stopped."""
        self.interrupted = ""
        self.last: m.RankMessage | None = None
        # what it knows
        self.step = -1
        self.state = 0
        self.form: m.Form | None = None
        self.next_form: m.Form | None = None
        self.pairs: dict[tuple[int, str], bytes] = {}
        self.group: tuple[str, ...] = ()
        self.endpoint = ""
        self.leave_asked = False
        self.left = False
        self.life: Generator[Wait, Any, None] = rank.life(self)
        self._advance(lambda: next(self.life))

    # ---- the coroutine

    @property
    def generation(self) -> int:
        return self.form.generation if self.form else 0

    @property
    def delivering(self) -> bool:
        return self.alive and self.wait[0].startswith("exchange")

    def _advance(self, resume: Any) -> None:
        self.waits += 1
        self.wait = ("running", None, False)
        try:
            self.wait = resume()
        except StopIteration:
            self.exit(0)
            return
        self.world.awaited(self, self.wait[0])
        if not self.alive:
            return
        if self.interrupted and self.wait[2]:
            self.world.time.later(0.0, self.fail, self.waits, self.interrupted)
        elif self.wait[1] is not None:
            self.world.time.later(self.wait[1], self.wake, self.waits, None)

    def wake(self, wait: int, value: Any) -> None:
        """None where the time is over."""
        if not self.alive or wait != self.waits:
            return
        if self.stopped:
            self.held.append((self.wake, wait, value))
            return
        self._advance(lambda: self.life.send(value))

    def fail(self, wait: int, reason: str) -> None:
        if not self.alive or wait != self.waits:
            return
        if self.stopped:
            self.held.append((self.fail, wait, reason))
            return
        self.interrupted = ""
        self._advance(lambda: self.life.throw(BrokenError(reason)))

    def interrupt(self, reason: str) -> None:
        """Its sockets are broken: what waits on them fails now, what computes finds out later."""
        if not self.form or not self.endpoint:
            return
        self.world.fabric.close(self.endpoint)
        self.interrupted = reason
        if self.wait[2]:
            self.world.time.later(0.0, self.fail, self.waits, reason)

    # ---- life and death

    def stop(self) -> None:
        self.stopped = True

    def go_on(self) -> None:
        self.stopped = False
        held, self.held = self.held, []
        for call, *args in held:
            if self.alive:
                call(*args)

    def exit(self, code: int, words: str = "") -> None:
        if not self.alive:
            return
        self.alive = False
        if self.endpoint:
            self.world.fabric.close(self.endpoint)
        self.node.reap(self, code, words)

    # ---- the keeper

    def say(self, message: m.RankMessage) -> None:
        self.left = self.left or isinstance(message, m.Leaving)
        if isinstance(message, m.Warm | m.Joined | m.Broken | m.Leaving):
            self.last = message
        self.node.pass_up(self, message)

    def again(self) -> None:
        """To a keeper that was restarted, or an agent that came back."""
        if self.stopped:
            self.held.append((self.again,))
            return
        rank_ = self.form.rank if self.form else -1
        self.say(m.Hello(self.name, self.pid, rank_, self.generation, self.step))
        if self.last is not None:
            self.say(self.last)

    def hear(self, message: m.KeeperMessage) -> None:
        if not self.alive:
            return
        if self.stopped:
            self.held.append((self.hear, message))
            return
        match message:
            case m.Abandon():
                if self.generation <= message.generation:
                    self.interrupt("abandoned")
            case m.Form():
                self._told_to_form(message)
            case m.Posted():
                if rank.is_current(self, message):
                    self.pairs[rank.pair_key(message.generation, message.key)] = message.value
                    self._wake_if("posting")
            case m.Leave():
                self.leave_asked = True

    def _told_to_form(self, message: m.Form) -> None:
        newest = self.next_form or self.form
        if newest is not None and message.generation <= newest.generation:
            return
        self.next_form, self.pairs = message, {}
        if self.endpoint:
            self.interrupt("another group is formed")
        self._wake_if("waiting for a place")

    def _wake_if(self, name: str) -> None:
        if self.wait[0] == name:
            self.world.time.later(0.0, self.wake, self.waits, True)

    # ---- state

    def take(self, step: int, state: int) -> None:
        self.step, self.state = step, state
        self.world.checks.holds(self)

    def apply(self) -> None:
        self.take(self.step + 1, model.advance(self.state, self.step))
        self.node.pages[self.name] = self.step
        self.world.checks.committed(self)

    def agreed(self, agreement: Agreement) -> None:
        self.world.checks.agreed(self, agreement)
