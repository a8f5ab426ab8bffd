"""What a site's rank 0 and its client say to each other, and the time that goes by with waiting for it."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from isthmus.errors import InputError, UnreachableError
from isthmus.outer import bridge
from isthmus.outer.site_state import SiteState

_log = logging.getLogger(__name__)
M = TypeVar("M", bound=bridge.LocalMessage)
_START_TIMEOUT_S = 600.0
_START_QUIET_S = 15.0
"""A site that waits longer than this for its server says so."""
_DIAL_S = 60.0


class Talk:
    """Owns the line to the client. All that is heard goes into `state`.

    Args:
        path: socket of the client.
        server: who stands behind it, for messages.
        state: of the site so far.
    """

    def __init__(self, path: str, server: str, state: SiteState):
        self.path, self._server = path, server
        self.state = state
        self.wait_s = 0.0
        """Seconds spent waiting for leases or versions so far."""
        self._line: bridge.Line | None = None
        self.start_lap()

    @property
    def begun(self) -> bool:
        """The client was reached, once."""
        return self._line is not None

    def dial(self) -> None:
        self._line = bridge.Line.dial(self.path, _DIAL_S)

    def close(self) -> None:
        if self._line:
            self._line.close()

    def start_lap(self) -> None:
        self._lap = (time.monotonic(), self.wait_s)

    def lap_s(self) -> float:
        """Seconds since the last lap that were not spent waiting here; the next one starts."""
        begin_s, waited_s = self._lap
        self.start_lap()
        return (self._lap[0] - begin_s) - (self._lap[1] - waited_s)

    def say(self, message: bridge.LocalMessage) -> None:
        assert self._line
        self._line.send(message)

    def look(self, timeout_s: float) -> None:
        """Hears what is there, waiting at most so long for the first message."""
        assert self._line
        for message in self._line.receive(timeout_s):
            self.hear(message)

    def hear(self, message: bridge.LocalMessage) -> None:
        """Raises InputError where the server refuses this site."""
        state = self.state
        state.heard += 1
        match message:
            case bridge.Attached():
                state.heard -= 1  # counted from there
            case bridge.Granted(ranges=granted):
                state.ranges.extend(granted)
            case bridge.Pace(inner_steps=steps):
                state.inner_steps = steps
            case bridge.MayPush():
                state.may_push = True
            case bridge.BaseReady():
                if message.pushes_seen == state.pushes:
                    state.base = message
            case bridge.Stop(reason=reason):
                state.stop = reason
            case bridge.Refused(reason=reason, hint=hint):
                raise InputError(f"the server refused this site: {reason}", hint=hint)

    def expect(self, kind: type[M]) -> M:
        """The next message of this kind; others are heard meanwhile."""
        assert self._line
        start_s, quiet_s = time.monotonic(), _START_QUIET_S
        while (waited_s := time.monotonic() - start_s) < _START_TIMEOUT_S:
            if waited_s > quiet_s:
                quiet_s = _START_TIMEOUT_S
                _log.warning(
                    "no word from the parameter server yet: is it up, its run not over? (%s)", self._server
                )
            messages = self._line.receive(1.0)
            found = [message for message in messages if isinstance(message, kind)]
            for message in messages:
                self.hear(message)
            if found:
                return found[0]
        raise UnreachableError(
            f"no {kind.__name__} from the site's client within {_START_TIMEOUT_S:.0f} s",
            where=self.path,
            hint="is the parameter server up? `isthmus check link` tells",
        )

    def wait_until(self, there: Callable[[], bool], what: str, timeout_s: float = float("inf")) -> None:
        """Hears messages until `there()`, counting the time as waiting. Raises UnreachableError after
        `timeout_s`.
        """
        start = time.monotonic()
        while not there():
            if time.monotonic() - start > timeout_s:
                raise UnreachableError(f"waited {timeout_s:.0f} s for {what}", where=self.path)
            self.look(0.5)
        self.wait_s += time.monotonic() - start
