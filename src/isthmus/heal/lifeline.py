"""A process's line to its site's keeper. A thread listens; a keeper that is restarted is dialled again.

Training needs no keeper: while it is away the process goes on, and only what it has to say waits.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from isthmus.errors import UnreachableError
from isthmus.heal.messages import (
    Abandon,
    Broken,
    Form,
    Hello,
    Inject,
    Joined,
    KeeperMessage,
    Leave,
    Posted,
    RankMessage,
    Warm,
)
from isthmus.wire.line import Line, LineClosedError

AWAY_S = 60.0
"""A keeper that has been away for longer will not come back: the process leaves in order."""
PULSE_S = 0.2
_DIAL_S = 1.0


class RankLine(Line[KeeperMessage]):
    """The rank's end."""

    kind = KeeperMessage
    what = "the site's agent"


class KeeperLine(Line[RankMessage]):
    """The keeper's end."""

    kind = RankMessage
    what = "the rank"


@dataclass
class Ears:
    """What is done, in the listening thread, about what the keeper says. Must not block."""

    abandon: Callable[[], None] = field(default=lambda: None)
    """The group in use is over: break it."""
    leave: Callable[[str], None] = field(default=lambda reason: None)
    inject: Callable[[Inject], None] = field(default=lambda inject: None)
    pulse: Callable[[], None] = field(default=lambda: None)
    """Called a few times a second: only where the interpreter lock is free, this thread runs."""


class AbandonedError(UnreachableError):
    """The generation that was being formed is over."""


class Lifeline:
    """Owns the line and its thread.

    Args:
        path: socket of the keeper.
        hello: how this process introduces itself, now.
    """

    def __init__(self, path: Path, hello: Callable[[], Hello], ears: Ears):
        self._path, self._hello, self._ears = path, hello, ears
        self._forms: queue.SimpleQueue[Form | Leave] = queue.SimpleQueue()
        self._said = threading.Condition()
        self._pairs: dict[str, bytes] = {}
        self._generation = 0
        self._over = 0
        """The newest generation that is known to be over."""
        self._early: list[Posted] = []
        self._closing = False
        self._last: RankMessage | None = None
        """The last Warm, Joined or Broken: a keeper that was restarted hears it again."""
        self._line = self._dial()
        threading.Thread(target=self._listen, name="keeper", daemon=True).start()

    def _dial(self) -> RankLine:
        line = RankLine.dial(str(self._path), _DIAL_S)
        line.send(self._hello())
        if self._last is not None:
            line.send(self._last)
        return line

    def say(self, message: RankMessage) -> None:
        """Waits for a keeper that is away. Raises UnreachableError if it stays away."""
        deadline = time.monotonic() + AWAY_S
        if isinstance(message, Warm | Joined | Broken):
            self._last = message
        while True:
            try:
                self._line.send(message)
                return
            except LineClosedError:
                if time.monotonic() > deadline or self._closing:
                    raise
            time.sleep(0.02)

    def next_form(self, after: int, timeout_s: float | None = None) -> Form | Leave:
        """The order to take a place in a generation above `after`, or to leave. Raises UnreachableError."""
        while True:
            try:
                order = self._forms.get(timeout=timeout_s)
            except queue.Empty:
                raise UnreachableError("the site's agent named no new group", where=str(self._path)) from None
            if isinstance(order, Leave):
                return order
            with self._said:
                if order.generation <= max(after, self._over):
                    continue
                self._pairs = {p.key: p.value for p in self._early if p.generation == order.generation}
                self._early = [p for p in self._early if p.generation > order.generation]
                self._generation = order.generation
            return order

    def post(self, generation: int, key: str, value: bytes) -> None:
        """Gives a pair to all processes of the generation."""
        with self._said:
            self._pairs[key] = value
        self.say(Posted(generation, key, value))

    def posted(self, generation: int, key: str, timeout_s: float) -> bytes:
        """Waits for a pair. Raises AbandonedError as soon as the generation is over."""
        deadline = time.monotonic() + timeout_s
        with self._said:
            while True:
                self.check(generation)
                if key in self._pairs:
                    return self._pairs[key]
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._said.wait(left_s):
                    raise UnreachableError(f"no word of {key} within {timeout_s:g} s", where=str(self._path))

    def check(self, generation: int) -> None:
        """Raises AbandonedError where the generation is over."""
        if self._over >= generation:
            raise AbandonedError(f"generation {generation} is over", where=str(self._path))

    def is_posted(self, key: str) -> bool:
        with self._said:
            return key in self._pairs

    def close(self) -> None:
        self._closing = True
        self._line.close()

    def _listen(self) -> None:
        while not self._closing:
            try:
                for message in self._line.receive(PULSE_S):
                    self._hear(message)
                self._ears.pulse()
            except LineClosedError:
                self._line.close()
                if not self._closing and not self._dial_again():
                    self._closing = True  # nobody waits any more to be heard
                    self._ears.leave("its agent is gone")
                    self._forms.put(Leave("its agent is gone"))
                    return

    def _dial_again(self) -> bool:
        deadline = time.monotonic() + AWAY_S
        while time.monotonic() < deadline and not self._closing:
            try:
                self._line = self._dial()
                return True
            except UnreachableError:
                time.sleep(0.05)
        return False

    def _hear(self, message: KeeperMessage) -> None:
        match message:
            case Form():
                self._forms.put(message)
            case Posted():
                with self._said:
                    if message.generation == self._generation:
                        self._pairs[message.key] = message.value
                        self._said.notify_all()
                    elif message.generation > self._generation:
                        self._early.append(message)
            case Abandon(generation=generation):
                with self._said:
                    self._over = max(self._over, generation)
                    self._said.notify_all()
                self._ears.abandon()
            case Leave(reason=reason):
                self._ears.leave(reason)
                self._forms.put(message)
            case Inject():
                self._ears.inject(message)
