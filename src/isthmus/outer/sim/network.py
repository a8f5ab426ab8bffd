"""Processes that crash and pause, connections that are cut, delay, duplicate and reorder."""

from collections.abc import Callable
from typing import Any, Protocol

from isthmus.sim.timeline import Timeline

LATE_SHARE = 0.3
"""Share of the messages in flight at a cut that still arrive, later, over the dead connection."""
LATE_S = 6.0
SLOW_FACTOR = 15.0


class Process:
    """Something that can crash (volatile state gone, generation up) and pause (everything waits)."""

    def __init__(self, time: Timeline, name: str):
        self.time, self.name = time, name
        self.alive = False
        self.generation = 0
        self.paused_until_s = 0.0

    def later(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self.time.at(self.time.now_s + delay_s, self._run, self.generation, call, args)

    def _run(self, generation: int, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if generation != self.generation or not self.alive:
            return
        if self.time.now_s < self.paused_until_s:
            self.time.at(self.paused_until_s, self._run, generation, call, args)
            return
        call(*args)

    def pause(self, duration_s: float) -> None:
        self.paused_until_s = max(self.paused_until_s, self.time.now_s + duration_s)

    def kill(self) -> None:
        self.alive = False
        self.generation += 1

    def spawn(self) -> None:
        self.alive = True
        self.generation += 1


class Endpoint(Protocol):
    """What a link calls on either end."""

    @property
    def process(self) -> Process: ...
    def on_up(self, link: "Link") -> None: ...
    def on_down(self, link: "Link") -> None: ...
    def on_payload(self, link: "Link", payload: Any) -> None: ...


class Link:
    """A dialling end, a listening end, and the connection between them that comes and goes. In order while
    it lives."""

    def __init__(self, time: Timeline, dialer: Endpoint, listener: Endpoint, delay_s: float, chaos: float):
        self.time, self.ends, self.delay_s, self.chaos = time, (dialer, listener), delay_s, chaos
        self.up = False
        self.serial = 0
        self.seen = [0, 0]
        """Serial of the connection each end last heard of coming up."""
        self.blocked_until_s = 0.0
        self.slow_until_s = 0.0
        self._last_s = [0.0, 0.0]

    def other(self, end: Endpoint) -> Endpoint:
        return self.ends[1] if end is self.ends[0] else self.ends[0]

    def dial(self) -> None:
        """Tries until the connection is up; every try has a bounded wait after it."""
        if self.up:
            return
        dialer, listener = self.ends
        reachable = (
            dialer.process.alive and listener.process.alive and self.time.now_s >= self.blocked_until_s
        )
        if not reachable:
            self.time.at(self.time.now_s + 0.5 + self.time.random.random(), self.dial)
            return
        self.up = True
        self.serial += 1
        self._last_s = [self.time.now_s, self.time.now_s]
        for index, end in enumerate(self.ends):
            end.process.later(self.delay_s * (2 - index), self._tell_up, index, self.serial)

    def _tell_up(self, index: int, serial: int) -> None:
        if serial == self.serial and self.up:
            if self.seen[index]:
                self.ends[index].on_down(self)
            self.seen[index] = serial
            self.ends[index].on_up(self)

    def _tell_down(self, index: int, serial: int) -> None:
        if self.seen[index] == serial:
            self.seen[index] = 0
            self.ends[index].on_down(self)

    def cut(self, blocked_s: float = 0.0) -> None:
        self.blocked_until_s = max(self.blocked_until_s, self.time.now_s + blocked_s)
        if not self.up:
            return
        self.up = False
        for index, end in enumerate(self.ends):
            if end.process.alive:
                end.process.later(self.time.random.random() * 1.5, self._tell_down, index, self.serial)
        self.time.at(self.time.now_s + 0.2 + self.time.random.random(), self.dial)

    def forget(self, end: Endpoint) -> None:
        """This end's process is gone and knows of no connection."""
        self.seen[0 if end is self.ends[0] else 1] = 0

    def send(self, end: Endpoint, payload: Any, bulk: bool = False) -> None:
        """Delivers in order after the link's delay; nothing if the connection is cut already."""
        if not self.up:
            return
        index = 1 if end is self.ends[0] else 0  # of the receiver
        rng = self.time.random
        delay_s = self.delay_s * (0.5 + rng.random()) * (4.0 if bulk else 1.0)
        if self.time.now_s < self.slow_until_s:
            delay_s *= SLOW_FACTOR
        if bulk:  # other streams: no order with the control messages
            when_s = self.time.now_s + delay_s
        else:
            when_s = self._last_s[index] = max(self._last_s[index], self.time.now_s + delay_s)
        receiver = self.ends[index].process
        self.time.at(when_s, self._arrive, index, self.serial, receiver.generation, payload)
        if self.chaos and rng.random() < self.chaos:
            again_s = when_s + delay_s * 4 * rng.random()
            self.time.at(again_s, self._arrive, index, self.serial, receiver.generation, payload)

    def _arrive(self, index: int, serial: int, generation: int, payload: Any, late: bool = False) -> None:
        end = self.ends[index]
        process = end.process
        if process.generation != generation or not process.alive:
            return
        time = self.time
        if not late and (serial != self.serial or not self.up):
            if time.random.random() < LATE_SHARE:
                when_s = time.now_s + LATE_S * time.random.random()
                time.at(when_s, self._arrive, index, serial, generation, payload, True)
            return
        if time.now_s < process.paused_until_s:
            time.at(process.paused_until_s, self._arrive, index, serial, generation, payload, late)
            return
        end.on_payload(self, payload)
