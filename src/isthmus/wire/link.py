"""One live link: a control connection and, per direction, N connections that carry chunks. Ends as a
whole."""

import contextlib
import logging
import struct
import threading
import time
from collections.abc import Callable

from isthmus.wire import frames
from isthmus.wire.channel import Channel, tcp_counters
from isthmus.wire.control import Control
from isthmus.wire.exchange import Exchange
from isthmus.wire.frames import MAX_CHUNK, FrameError, Header, Kind
from isthmus.wire.handshake import Timing
from isthmus.wire.hello import Role

_log = logging.getLogger(__name__)
_STAMP = struct.Struct("<dd")
_JOIN_S = 60.0
_FLUSH_S = 1.0


class Link:
    """`run` is the control thread and returns why the link ended; each stream has a thread of its own."""

    def __init__(self, exchange: Exchange, control: Channel, streams: int, timing: Timing):
        self.id = ""
        self.streams = streams
        self.clock_offset_s: float | None = None
        """Their wall clock minus ours, from the quickest ping."""
        self.asked_to_end = False
        """The application dropped it, it did not break."""
        self._exchange = exchange
        self._timing = timing
        self._channels: dict[tuple[Role, int], Channel] = {("control", 0): control}
        self._control = Control(control)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._ending = ""
        self._ready = False
        self._best_rtt_s = float("inf")

    def attach(self, role: Role, stream: int, channel: Channel, sends: bool) -> bool:
        """Adds a stream's connection; `sends`: chunks go out on it. False if the link has ended meanwhile."""
        loop = self._send_chunks if sends else self._receive_chunks
        thread = threading.Thread(
            target=self._guard, args=(loop, channel, stream), name=f"wire-{role}-{stream}", daemon=True
        )
        with self._lock:
            if self._ending or (role, stream) in self._channels:
                return False
            self._channels[role, stream] = channel
            self._threads.append(thread)
        return True

    @property
    def complete(self) -> bool:
        return len(self._channels) == 1 + 2 * self.streams

    def queue(self, frame: bytes) -> bool:
        """False when the link has ended, or ends now because its queue is full."""
        if self._ending:
            return False
        if self._control.queue(frame):
            return True
        self.end("the other side does not read its messages")
        return False

    def end(self, reason: str) -> None:
        """From any thread: the link goes down soon. The first reason counts."""
        with self._lock:
            if self._ending:
                return
            self._ending = reason or "closed"
        self._control.wake()

    def run(self, announce: bool, on_ready: Callable[[], None], on_message: Callable[[bytes], None]) -> str:
        """Serves the control connection until the link ends. `announce`: this side says when it is ready."""
        try:
            self._control.start()
            if announce:
                self._control.queue(frames.frame(Kind.READY))
                self._begin(on_ready)
            self._serve(on_ready, on_message)
        except (OSError, FrameError) as error:
            self.end(str(error))
        except Exception as error:
            _log.exception("a handler failed")
            self.end(f"handler failed: {error!r}")
        self._control.drain(_FLUSH_S)
        if self.asked_to_end:
            self._control.hang_up(_FLUSH_S)
        self._finish()
        return self._ending

    def counted(self) -> tuple[int, int]:
        """Bytes out and in over all connections."""
        channels = list(self._channels.values())
        return sum(c.bytes_out for c in channels), sum(c.bytes_in for c in channels)

    def segments(self) -> tuple[int, int]:
        """TCP segments out, and those of them that were sent again; (0, 0) where the system does not tell."""
        found = [_segments(channel) for channel in list(self._channels.values())]
        return sum(out for out, _ in found), sum(again for _, again in found)

    def _serve(self, on_ready: Callable[[], None], on_message: Callable[[bytes], None]) -> None:
        next_ping_s = time.monotonic()
        pause_s = self._timing.silence_s / 4
        ending = False
        while not ending:
            ending = bool(self._ending)  # then one more turn: the other side's last words may have come
            now_s = time.monotonic()
            if now_s >= next_ping_s:
                self._control.queue(frames.frame(Kind.PING, _STAMP.pack(now_s, 0.0)))
                next_ping_s = now_s + pause_s
            for header, payload in self._control.turn(0 if ending else next_ping_s - now_s):
                if header.kind is Kind.MESSAGE and self._ready:
                    on_message(payload)
                elif header.kind is Kind.READY and not self._ready and self.complete:
                    self._begin(on_ready)
                else:
                    self._control_frame(header, payload)
            self._answer(self._exchange.held())
            self._check_silence()

    def _control_frame(self, header: Header, payload: bytes) -> None:
        if header.kind is Kind.PING:
            stamp = payload[:8].ljust(8, b"\0") + struct.pack("<d", self._timing.clock.wall_s())
            self._control.queue(frames.frame(Kind.PONG, stamp))
        elif header.kind is Kind.PONG:
            self._pong(payload)
        else:
            self._answer(self._exchange.handle(header, payload))

    def _begin(self, on_ready: Callable[[], None]) -> None:
        """All connections are there. The application hears of it before anything else comes through."""
        self._ready = True
        on_ready()
        offers = self._exchange.link_up(self.streams)
        self._answer(offers)
        for thread in self._threads:
            thread.start()

    def _answer(self, answers: list[bytes]) -> None:
        for frame in answers:
            self.queue(frame)

    def _pong(self, payload: bytes) -> None:
        if len(payload) != _STAMP.size:
            raise FrameError("unreadable pong")
        sent_s, wall_s = _STAMP.unpack(payload)
        rtt_s = time.monotonic() - sent_s
        if not 0 <= rtt_s < 3600:
            raise FrameError("a pong for no ping of ours")
        clock_offset_s = wall_s + rtt_s / 2 - self._timing.clock.wall_s()
        self._exchange.pong(rtt_s, clock_offset_s)
        if rtt_s <= self._best_rtt_s:
            self._best_rtt_s = rtt_s
            self.clock_offset_s = clock_offset_s

    def _check_silence(self) -> None:
        heard_s = max(channel.heard_s for channel in list(self._channels.values()))
        allowed_s = self._timing.silence_s
        if not self._ready:
            allowed_s = max(allowed_s, 2 * (self._timing.handshake_s + self._timing.dial_s))
        if time.monotonic() - heard_s > allowed_s:
            self.end(f"silent for {allowed_s:.1f} s")

    def _guard(self, loop: Callable[[Channel, int], None], channel: Channel, stream: int) -> None:
        try:
            loop(channel, stream)
        except (OSError, FrameError) as error:
            self.end(str(error))
        except Exception as error:
            _log.exception("a handler failed")
            self.end(f"handler failed: {error!r}")

    def _send_chunks(self, channel: Channel, stream: int) -> None:
        while taken := self._exchange.take(stream):
            chunk, payload = taken
            channel.send(Kind.CHUNK, payload, key=chunk.transfer, offset=chunk.offset, stream=stream)

    def _receive_chunks(self, channel: Channel, stream: int) -> None:
        scratch = memoryview(b"")
        while True:
            header = channel.read_header()
            if header.kind is not Kind.CHUNK:
                raise FrameError(f"{header.kind.name} on stream {stream}")
            landing = self._exchange.place(header)
            if landing is None and len(scratch) < header.length:
                scratch = memoryview(bytearray(MAX_CHUNK))
            view = landing.view if landing else scratch[: header.length]
            channel.read_into(view)
            good = landing is not None and frames.intact(header, view)
            self._answer(self._exchange.landed(header, landing, good))

    def _finish(self) -> None:
        """Closes everything; afterwards no thread of this link touches a buffer any more."""
        self._exchange.link_down()
        deadline_s = time.monotonic() + _JOIN_S
        for channel in self._channels.values():
            channel.cut()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline_s - time.monotonic()))
        self._exchange.link_down()
        for channel in self._channels.values():
            channel.close()
        self._control.close()


def _segments(channel: Channel) -> tuple[int, int]:
    with contextlib.suppress(OSError):  # it has just been closed
        counters = tcp_counters(channel.sock)
        return counters.get("segments_out", 0), counters.get("retransmitted", 0)
    return 0, 0
