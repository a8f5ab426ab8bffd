"""A distant link on one machine, in user space and without root: a TCP relay that limits, delays and breaks.

Each direction has a rate shared by all connections and a one-way delay. It ends TCP on both sides, so it
shows bandwidth, delay, silence and resets, but not loss or congestion control: network namespaces do that.

As a process: `python -m isthmus.wire.shaper --target HOST:PORT --rate '100 Mbps' --delay '15 ms'` prints its
own address as one line of JSON, takes the lines `blackhole SECONDS`, `slow FACTOR` and `reset` on stdin, and
ends with stdin. With `--orders PATH` it takes them through a named pipe too (`orders`)."""

import contextlib
import json
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from isthmus.wire.handshake import Address, format_address, parse_address
from isthmus.wire.orders import take_orders
from isthmus.wire.pipes import HORIZON_S, MAX_QUEUED, Direction, Pipe

_MAX_CONNECTIONS = 256
_RESET = struct.pack("ii", 1, 0)


class Shaper:
    """Relays `address` to `target` from construction until `close`, in a thread of its own."""

    def __init__(
        self, target: Address, rate_bps: float = 0, delay_s: float = 0, listen: Address = ("127.0.0.1", 0)
    ):
        """`rate_bps`: bits per second in each direction, 0 for no limit; `delay_s`: one way."""
        self._target = target
        self._rate_bps, self._delay_s = rate_bps, delay_s
        self._up = Direction(rate_bps / 8, delay_s)
        self._down = Direction(rate_bps / 8, delay_s)
        self._pipes: dict[socket.socket, tuple[Pipe, Pipe]] = {}
        """Socket -> (pipe that reads it, pipe that writes it)."""
        self._selector = selectors.DefaultSelector()
        self._dark_until_s = 0.0
        self._wants_reset = False
        self._closed = False
        self._listener = socket.create_server(listen, backlog=64)
        self._listener.setblocking(False)
        self.address: Address = self._listener.getsockname()[:2]
        self._awake, self._waker = socket.socketpair()
        self._awake.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="shaper", daemon=True)
        self._thread.start()

    @property
    def bytes_up(self) -> int:
        """Bytes taken in towards the target."""
        return self._up.passed

    @property
    def bytes_down(self) -> int:
        return self._down.passed

    def blackhole(self, duration_s: float) -> None:
        """Nothing passes for so long, and nobody is told."""
        self._dark_until_s = time.monotonic() + duration_s
        self._wake()

    def slow(self, factor: float) -> None:
        """From now on a `factor` of the time for each byte, and of the delay; 1: as it was made."""
        for direction in (self._up, self._down):
            direction.bytes_per_s = self._rate_bps / 8 / factor
            direction.delay_s = self._delay_s * factor
        self._wake()

    def reset(self) -> None:
        """Breaks every connection at once; what was on its way is lost."""
        self._wants_reset = True
        self._wake()

    def close(self) -> None:
        self._closed = True
        self._wake()
        self._thread.join(5.0)

    def __enter__(self) -> "Shaper":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def _run(self) -> None:
        while not self._closed:
            now_s = time.monotonic()
            dark_s = self._dark_until_s - now_s
            for sock, (reads, writes) in list(self._pipes.items()):
                self._watch(sock, reads, writes, now_s, dark_s > 0)
            self._interest(self._listener, selectors.EVENT_READ if dark_s <= 0 else 0)
            for key, events in self._selector.select(dark_s if dark_s > 0 else self._pause_s(now_s)):
                self._serve(key.fileobj, events)
            if self._wants_reset:
                self._wants_reset = False
                for sock in list(self._pipes):
                    self._close(sock, reset=True)
            if time.monotonic() >= self._dark_until_s:
                self._deliver()
        for sock in list(self._pipes):
            self._close(sock, reset=True)
        for sock in (self._listener, self._awake, self._waker):
            sock.close()
        self._selector.close()

    def _pause_s(self, now_s: float) -> float:
        """Until the next bytes are due or the link is free again."""
        pause_s = 1.0
        for reads, _ in self._pipes.values():
            if reads.queue and not reads.blocked:
                pause_s = min(pause_s, reads.queue[0][0] - now_s)
            if not reads.ended and reads.queued < MAX_QUEUED:
                booked_s = reads.direction.free_s - now_s
                if booked_s >= HORIZON_S:
                    pause_s = min(pause_s, booked_s - HORIZON_S)
        return max(0.0005, pause_s)

    def _watch(self, sock: socket.socket, reads: Pipe, writes: Pipe, now_s: float, dark: bool) -> None:
        interest = 0
        if not dark and reads.may_read(now_s):
            interest |= selectors.EVENT_READ
        if not dark and writes.blocked:
            interest |= selectors.EVENT_WRITE
        self._interest(sock, interest)

    def _interest(self, sock: socket.socket, interest: int) -> None:
        key = self._selector.get_map().get(sock)
        if key is None:
            if interest:
                self._selector.register(sock, interest)
        elif not interest:
            self._selector.unregister(sock)
        elif key.events != interest:
            self._selector.modify(sock, interest)

    def _serve(self, sock: object, events: int) -> None:
        if sock is self._awake:
            self._awake.recv(4096)
        elif sock is self._listener:
            self._join()
        elif isinstance(sock, socket.socket) and sock in self._pipes and events & selectors.EVENT_READ:
            reads, writes = self._pipes[sock]
            try:
                reads.read(time.monotonic())
            except BlockingIOError:
                pass
            except OSError:  # what it sent before is still on its way
                reads.ended = True
                writes.give_up()

    def _deliver(self) -> None:
        now_s = time.monotonic()
        for sock, (reads, writes) in list(self._pipes.items()):
            if sock not in self._pipes:
                continue
            try:
                reads.write(now_s)
            except OSError:
                reads.give_up()
                writes.ended = True
            if reads.shut and writes.shut:
                self._close(sock, reset=False)

    def _join(self) -> None:
        near, _ = self._listener.accept()
        try:
            if len(self._pipes) >= 2 * _MAX_CONNECTIONS:
                raise OSError("too many connections")
            far = socket.create_connection(self._target, timeout=2.0)
        except OSError:
            near.close()
            return
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up, down = Pipe(near, far, self._up), Pipe(far, near, self._down)
        self._pipes[near] = (up, down)
        self._pipes[far] = (down, up)

    def _close(self, sock: socket.socket, reset: bool) -> None:
        """Closes both ends of the connection that `sock` is one of; with `reset` what they still hold is
        lost.
        """
        if sock not in self._pipes:
            return
        reads, _ = self._pipes[sock]
        for end in (reads.source, reads.drain):
            del self._pipes[end]
            self._interest(end, 0)
            if reset:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()


class ShaperProcess:
    """The same relay as a process of its own, off the caller's GIL."""

    def __init__(self, target: Address, rate_bps: float = 0, delay_s: float = 0):
        command = [sys.executable, "-m", "isthmus.wire.shaper", "--target", format_address(target)]
        command += ["--rate", f"{rate_bps} bps", "--delay", f"{delay_s} s"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._orders, answers = self.process.stdin, self.process.stdout
        with answers:
            self.address = parse_address(json.loads(answers.readline())["address"])

    def blackhole(self, duration_s: float) -> None:
        self._order(f"blackhole {duration_s}")

    def slow(self, factor: float) -> None:
        self._order(f"slow {factor}")

    def reset(self) -> None:
        self._order("reset")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._orders.close()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5.0)

    def __enter__(self) -> "ShaperProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _order(self, line: str) -> None:
        self._orders.write(line + "\n")
        self._orders.flush()


def main(argv: list[str]) -> int:
    """The relay as a process, steered by lines on stdin."""
    import argparse

    from isthmus.units import Bandwidth, Seconds

    parser = argparse.ArgumentParser(prog="python -m isthmus.wire.shaper", description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--rate", default="0 bps", type=Bandwidth.parse)
    parser.add_argument("--delay", default="0 s", type=Seconds.parse)
    parser.add_argument("--orders", type=Path)
    args = parser.parse_args(argv)
    target, listen = parse_address(args.target), parse_address(args.listen)
    with Shaper(target, args.rate, args.delay, listen) as shaper:
        if args.orders:
            lines = take_orders(args.orders)
            threading.Thread(target=_obey_all, args=(shaper, lines), daemon=True).start()
        print(json.dumps({"address": format_address(shaper.address)}), flush=True)
        for line in sys.stdin:
            _obey(shaper, line)
    if args.orders:
        args.orders.unlink(missing_ok=True)
    return 0


def _obey_all(shaper: Shaper, lines: TextIO) -> None:
    for line in iter(lines.readline, ""):
        _obey(shaper, line)


def _obey(shaper: Shaper, line: str) -> None:
    try:
        match line.split():
            case ["blackhole", duration]:
                shaper.blackhole(float(duration))
            case ["slow", factor] if float(factor) > 0:
                shaper.slow(float(factor))
            case ["reset"]:
                shaper.reset()
            case _:
                raise ValueError
    except ValueError:
        print(f"unknown order {line.strip()!r}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
