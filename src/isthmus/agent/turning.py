"""A keeper or a node from its opening to its end, and what signals ask of it."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from isthmus.errors import IsthmusError
from isthmus.heal.actions import End


class Turning(Protocol):
    """A keeper or a node."""

    leave_asked: str

    def open(self) -> None: ...
    def turn(self) -> End | None: ...
    def close(self) -> None: ...


@dataclass
class Ask:
    """SIGTERM, SIGINT and SIGUSR1 ask to leave in order; SIGQUIT ends everything at once, and so does a
    second one of the others where a person is at the terminal.
    """

    turning: Turning
    at_terminal: bool = False
    heard: list[str] = field(default_factory=list)

    def hold(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._leave)
        signal.signal(signal.SIGQUIT, self._quit)

    def _leave(self, number: int, frame: object) -> None:
        if self.heard and self.at_terminal:
            raise KeyboardInterrupt
        self.heard.append(signal.Signals(number).name)
        self.turning.leave_asked = self.heard[0]

    def _quit(self, number: int, frame: object) -> None:
        raise KeyboardInterrupt


def live_through(asked: Ask, looks: Sequence[Callable[[], None]] = ()) -> End:
    """To its end; no process of its own is left then. `looks` are called after each turn."""
    asked.hold()
    turning = asked.turning
    turning.open()
    try:
        while (end := turning.turn()) is None:
            for look in looks:
                look()
        return end
    except KeyboardInterrupt:
        return End("failed", "ended at once", 130)
    except IsthmusError as error:
        return End("failed", str(error), error.exit_code)
    finally:
        turning.close()
