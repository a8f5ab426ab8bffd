"""The wires of `netns`: packets between TUN devices, late, no faster than a rate, lost when the queue is
full.

Each end of a link is a TUN device in a namespace of its own, so TCP sees a real round trip and its congestion
control works. The devices hand over segments of up to 64 KiB at once (TSO, as between a kernel and its
network card), so that 100 Mbit/s cost some hundred packets a second instead of ten thousand.

A process of its own: its argument is JSON, it prints 'ready', takes lines `cut LINK SECONDS` on stdin and
ends with stdin.
"""

import contextlib
import fcntl
import json
import math
import os
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN_NO_PI_VNET_HDR = 0x0001 | 0x1000 | 0x4000
_CSUM_TSO4_TSO6 = 0x01 | 0x02 | 0x04
_VNET = struct.Struct("<BBHHHH")
_MAX_PACKET = _VNET.size + 65_600
_TCP_IP_BYTES = 52
_QUEUE_S = 0.25
"""Longest queue in front of a link before packets are dropped, as in a router with a deep buffer."""
_BATCH = 32


class End(msgspec.Struct, frozen=True):
    """One end of a link: a namespace, the device's name in it, its address with prefix length."""

    namespace: str
    device: str
    address: str


class Wire(msgspec.Struct, frozen=True):
    name: str
    ends: tuple[End, End]
    rate_bps: float
    delay_s: float
    """One way."""


@dataclass
class _Way:
    """One direction of a link."""

    source: int
    drain: int
    bytes_per_s: float
    delay_s: float
    free_s: float = 0.0
    dark_until_s: float = 0.0
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)

    def read(self, now_s: float) -> None:
        for _ in range(_BATCH):
            try:
                packet = os.read(self.source, _MAX_PACKET)
            except BlockingIOError:
                return
            start_s = max(now_s, self.free_s)
            if now_s < self.dark_until_s or start_s - now_s > _QUEUE_S:
                continue
            self.free_s = start_s + _wire_bytes(packet) / self.bytes_per_s
            self.queue.append((self.free_s + self.delay_s, packet))

    def write(self, now_s: float) -> None:
        while self.queue and self.queue[0][0] <= now_s:
            _, packet = self.queue.popleft()
            with contextlib.suppress(OSError):  # a full or closed device loses the packet, as a wire does
                os.write(self.drain, packet)


def _wire_bytes(packet: bytes) -> int:
    """Bytes on a real wire, where each segment has headers of its own."""
    _, gso_type, _, gso_size, _, _ = _VNET.unpack_from(packet)
    size = len(packet) - _VNET.size
    if not gso_type or not gso_size:
        return size
    segments = math.ceil((size - _TCP_IP_BYTES) / gso_size)
    return size + (segments - 1) * _TCP_IP_BYTES


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Runs this thread's network calls in a named namespace. Needs root."""
    libc = _libc()
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _enter(libc, there)
        yield
        _enter(libc, home)
    finally:
        os.close(there)
        os.close(home)


def _libc():
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _enter(libc, namespace: int) -> None:
    import ctypes

    if libc.setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns")


def _open(end: End) -> int:
    """Makes the device in its namespace and returns its file descriptor."""
    import subprocess

    with inside(end.namespace):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", end.device.encode(), _IFF_TUN_NO_PI_VNET_HDR))
        fcntl.ioctl(device, _TUNSETOFFLOAD, _CSUM_TSO4_TSO6)
        for command in (
            ["ip", "addr", "add", end.address, "dev", end.device],
            ["ip", "link", "set", end.device, "mtu", "1500", "txqueuelen", "1000", "up"],
        ):
            subprocess.run(command, check=True)
    return device


def shuttle(wires: list[Wire]) -> None:
    """Opens the devices and carries packets until stdin ends."""
    ways: dict[int, _Way] = {}
    named: dict[str, list[_Way]] = {}
    for wire in wires:
        near, far = (_open(end) for end in wire.ends)
        there = _Way(near, far, wire.rate_bps / 8, wire.delay_s)
        back = _Way(far, near, wire.rate_bps / 8, wire.delay_s)
        ways |= {near: there, far: back}
        named[wire.name] = [there, back]
    poll = select.poll()
    for device in ways:
        poll.register(device, select.POLLIN)
    poll.register(0, select.POLLIN | select.POLLHUP)
    print("ready", flush=True)
    while True:
        now_s = time.monotonic()
        due_s = min((way.queue[0][0] for way in ways.values() if way.queue), default=now_s + 1.0)
        ready = poll.poll(max(0.0, due_s - now_s) * 1000)
        now_s = time.monotonic()
        for number, _ in ready:
            if number in ways:
                ways[number].read(now_s)
            elif not _obey(named, now_s):
                return
        for way in ways.values():
            way.write(now_s)


def _obey(named: dict[str, list[_Way]], now_s: float) -> bool:
    """Lines from stdin; False at its end."""
    data = os.read(0, 4096)
    for line in data.decode().splitlines():
        order, name, duration_s = line.split()
        for way in named[name] if order == "cut" else []:
            way.dark_until_s = now_s + float(duration_s)
            way.queue.clear()
    return bool(data)


if __name__ == "__main__":
    shuttle(msgspec.convert(json.loads(sys.argv[1]), list[Wire]))
