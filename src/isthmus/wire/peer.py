"""The other side of a link, as the application sees it. Lives on while connections come and go."""

import threading
from collections.abc import Callable
from typing import Any

from isthmus.wire import frames
from isthmus.wire.exchange import Exchange
from isthmus.wire.frames import Kind
from isthmus.wire.handler import Handle, PeerHandler
from isthmus.wire.link import Link
from isthmus.wire.meter import LinkStats, Measured

_SEGMENTS = 1000
"""A share of fewer says little."""


class Peer:
    """`name` is proven by certificate and token on the server's side, and 'server' on a site's."""

    def __init__(self, name: str, session: str, handler: PeerHandler, *, is_site: bool, hello: bytes = b""):
        self.name = name
        self.session = session
        """Random name of the other process: a new one means that it was restarted. On a site: our own."""
        self.hello = hello
        """What the site's `Session` was given for the application to read. Empty on a site."""
        self._is_site = is_site
        """The other side is a site, so what we receive goes up."""
        self._handler = handler
        self._exchange = Exchange(self, handler)
        self._vacant = threading.Condition()
        self._link: Link | None = None
        self._up = False
        self._past_out = 0
        self._past_in = 0
        self._segments: tuple[Link | None, int, int] = (None, 0, 0)
        """Of that link: sent, and sent again, when the share was last taken."""

    @property
    def up(self) -> bool:
        return self._up

    @property
    def clock_offset_s(self) -> float | None:
        """Their wall clock minus ours; None until measured."""
        link = self._link
        return link.clock_offset_s if link else None

    def send(self, message: bytes) -> bool:
        """Queues a control message; messages of one link arrive in order. False when the link is down: the
        message is then lost, as is one that was still under way when the link broke."""
        link = self._link
        return self._up and link is not None and link.queue(frames.frame(Kind.MESSAGE, message))

    def put(self, key: str, payload: Any) -> Handle:
        """Sends a buffer, which must stay as it is until `on_sent` or `cancel`. Works while the link is down,
        too: the transfer begins, or resumes, when it is up. Raises InputError if too many are under way."""
        handle, said = self._exchange.put(key, payload)
        self._say(said)
        return handle

    def cancel(self, key: str) -> None:
        """Gives up a transfer of ours; nothing happens if it is through. The receiver forgets its part."""
        self._say(self._exchange.cancel(key))

    def drop(self, reason: str) -> None:
        """Ends the link. A session dials again, the next of its addresses first."""
        link = self._link
        if link is not None:
            link.asked_to_end = True
            link.end(reason)

    def stats(self) -> LinkStats:
        link, exchange = self._link, self._exchange
        out, received = link.counted() if link else (0, 0)
        out, received = out + self._past_out, received + self._past_in
        out_bps, in_bps = exchange.out_rate.bps, exchange.in_rate.bps
        if self._is_site:
            out, received, out_bps, in_bps = received, out, in_bps, out_bps
        return LinkStats(out, received, exchange.rtt.smooth_s, out_bps, in_bps, exchange.resent_chunks)

    def measured(self) -> Measured:
        """Since the last call; for one caller."""
        out_bps, in_bps, ping = self._exchange.take_fresh()
        rtt_s, clock_offset_s = ping or (None, None)
        up_bps, down_bps = (in_bps, out_bps) if self._is_site else (out_bps, in_bps)
        return Measured(up_bps, down_bps, rtt_s, clock_offset_s, self._resent())

    def _resent(self) -> float | None:
        """Share of TCP segments, once there are enough of one link to tell."""
        link = self._link
        if link is None:
            return None
        of, out, again = self._segments
        if of is not link:
            out = again = 0
        now_out, now_again = link.segments()
        is_enough = now_out - out >= _SEGMENTS
        self._segments = (link, now_out, now_again) if is_enough else (link, out, again)
        return (now_again - again) / (now_out - out) if is_enough else None

    # --- for Listener and Session ---

    @property
    def exchange(self) -> Exchange:
        return self._exchange

    @property
    def link(self) -> Link | None:
        return self._link

    def take_over(self, link: Link, timeout_s: float) -> bool:
        """Makes `link` the peer's link once the one before has ended. False if that took too long."""
        with self._vacant:
            if self._link is not None:
                self._link.end("a newer connection took its place")
            if not self._vacant.wait_for(lambda: self._link is None, timeout_s):
                return False
            self._link = link
            return True

    def serve(self, link: Link, announce: bool, on_up: Callable[[], None] | None = None) -> str:
        """Runs the link to its end in this thread. Returns why it ended. `on_up` runs before the
        handler's."""

        def ready() -> None:
            self._up = True
            if on_up is not None:
                on_up()
            self._handler.on_up(self)

        reason = link.run(announce, ready, lambda message: self._handler.on_message(self, message))
        was_up, self._up = self._up, False
        if was_up:
            self._handler.on_down(self, reason)
        with self._vacant:
            out, received = link.counted()
            self._past_out += out
            self._past_in += received
            self._link = None
            self._vacant.notify_all()
        return reason

    def retire(self, reason: str, timeout_s: float) -> None:
        """This process of the site is gone for good: the link ends, transfers to it are given up."""
        with self._vacant:
            if self._link is not None:
                self._link.end(reason)
                self._vacant.wait_for(lambda: self._link is None, timeout_s)
        self._exchange.settle_all()

    def _say(self, said: list[bytes]) -> None:
        link = self._link
        if link is not None and self._up:
            for frame in said:
                link.queue(frame)
