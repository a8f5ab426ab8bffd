"""`isthmus bench transport`: the transport on loopback against a raw loop of blocking sockets.

Sender and receiver are separate processes. The arms take turns, each round a fresh pair of processes; what is
reported is the median over rounds of the ratio within a round, since the machine's speed drifts between them.
"""

import datetime
import multiprocessing
import os
import platform
import resource
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from isthmus.wire import certs
from isthmus.wire.shaper import Shaper
from isthmus.wire.transport import ClientTls, Listener, Peer, Plain, ServerTls, Session, Timing
from isthmus_bench import raw
from isthmus_bench.document import Result

CHUNK_BYTES = 1 << 20
STREAMS = 2
_WARM_BYTES = 32 << 20
"""Sent before the clock starts, by every arm: windows open, and isthmus learns the link's rate."""
_TIMEOUT_S = 120.0
ARMS = ("raw", "isthmus", "raw tls", "isthmus tls")


class Cost(NamedTuple):
    """`gb_per_s` of payload, and CPU seconds of sender and receiver together per GB."""

    gb_per_s: float
    cpu_s_per_gb: float


def run(quick: bool) -> list[Result]:
    """Figures `transport.*` and what cutting a link costs."""
    total, rounds = (64 << 20, 3) if quick else (512 << 20, 7)
    costs: dict[str, list[Cost]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        certs.init(Path(folder), ["bench"], [], datetime.datetime.now(datetime.UTC))
        for turn in range(rounds):
            for arm in ARMS[turn % 2 :] + ARMS[: turn % 2]:
                costs[arm].append(_measure(arm, Path(folder), total))
    note = f"{total >> 20} MiB one way, {rounds} rounds, isthmus over {STREAMS} streams, CPU of both sides"
    results = []
    for ours, theirs, suffix in (("isthmus", "raw", ""), ("isthmus tls", "raw tls", ".tls")):
        settings = (
            f"blocking sockets{', TLS 1.3' if suffix else ''}, xxh3, Python {platform.python_version()}"
        )
        speed = statistics.median(
            a.gb_per_s / b.gb_per_s for a, b in zip(costs[ours], costs[theirs], strict=True)
        )
        cpu = statistics.median(
            a.cpu_s_per_gb / b.cpu_s_per_gb for a, b in zip(costs[ours], costs[theirs], strict=True)
        )
        absolute = statistics.median(cost.gb_per_s for cost in costs[ours])
        seconds = statistics.median(cost.cpu_s_per_gb for cost in costs[ours])
        results.append(
            Result(
                f"transport.speed{suffix}", speed, "ratio", {settings: 1.0}, f"{absolute:.2f} GB/s; {note}"
            )
        )
        results.append(
            Result(f"transport.cpu{suffix}", cpu, "ratio", {settings: 1.0}, f"{seconds:.2f} CPU s/GB; {note}")
        )
    return [*results, _tls_price(costs), link_cut(quick)]


def _tls_price(costs: dict[str, list[Cost]]) -> Result:
    price = statistics.median(
        a.cpu_s_per_gb / b.cpu_s_per_gb for a, b in zip(costs["isthmus tls"], costs["isthmus"], strict=True)
    )
    return Result("transport.tls_cpu", price, "ratio", {"isthmus without TLS": 1.0}, ssl.OPENSSL_VERSION)


def link_cut(quick: bool) -> Result:
    """Chunks sent again per stream after a silent cut of 10 s (2 s: quick) in the middle of a transfer."""
    cut_s, size = (2.0, 24 << 20) if quick else (10.0, 96 << 20)
    sink = _Sink(bytearray(size))
    timing = Timing(silence_s=cut_s / 4)
    with (
        Listener(("127.0.0.1", 0), Plain(), sink, timing) as listener,
        Shaper(listener.address, rate_bps=100e6, delay_s=0.015) as shaper,
        Session([shaper.address], Plain("bench"), sink, streams=STREAMS, timing=timing) as session,
    ):
        session.wait_up(10.0)
        handle = session.peer.put("k", memoryview(bytes(size)))
        while shaper.bytes_up < size // 3:
            time.sleep(0.01)
        shaper.blackhole(cut_s)
        if not handle.wait(_TIMEOUT_S):
            raise TimeoutError("the transfer did not resume after the cut")
        again = session.peer.stats().resent_chunks
    return Result(
        "transport.link_cut.resent_chunks",
        again / STREAMS,
        "count",
        note=f"per stream; relay at 100 Mbit/s, 30 ms, silent for {cut_s:.0f} s, {size >> 20} MiB under way",
    )


def _measure(arm: str, folder: Path, total: int) -> Cost:
    """One transfer between two fresh processes."""
    context = multiprocessing.get_context("spawn")
    kind = "isthmus" if arm.startswith("isthmus") else "raw"
    tls = folder if arm.endswith("tls") else None
    here, there = context.Pipe()
    receiver = context.Process(target=_receiver, args=(there, kind, tls, total))
    receiver.start()
    address = _hear(here, receiver)
    mine, theirs = context.Pipe()
    sender = context.Process(target=_sender, args=(theirs, kind, tls, total, address))
    sender.start()
    took_s, sender_cpu_s = _hear(mine, sender)
    here.send("done")
    receiver_cpu_s = _hear(here, receiver)
    sender.join(_TIMEOUT_S)
    receiver.join(_TIMEOUT_S)
    gigabytes = total / 1e9
    return Cost(gigabytes / took_s, (sender_cpu_s + receiver_cpu_s) / gigabytes)


def _hear(pipe: Connection, process: Any) -> Any:
    deadline_s = time.monotonic() + _TIMEOUT_S
    while not pipe.poll(0.2):
        if not process.is_alive() or time.monotonic() > deadline_s:
            process.kill()
            raise RuntimeError(f"a benchmark process ended early (exit {process.exitcode})")
    return pipe.recv()


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _touched(size: int) -> bytearray:
    """Memory whose pages are there already."""
    return bytearray(os.urandom(1 << 20) * -(-size // (1 << 20)))


class _Sink:
    """Takes every transfer into one buffer."""

    def __init__(self, buffer: bytearray):
        self.buffer = buffer
        self.cpu_s = 0.0
        """What the process had used when the warm-up was through."""

    def on_up(self, peer: Peer) -> None: ...

    def on_down(self, peer: Peer, reason: str) -> None: ...

    def on_message(self, peer: Peer, message: bytes) -> None: ...

    def allocate(self, peer: Peer, key: str, size: int) -> memoryview:
        return memoryview(self.buffer)[:size]

    def on_blob(self, peer: Peer, key: str, buffer: memoryview) -> None:
        if key == "warm":
            self.cpu_s = _cpu_s()

    def on_sent(self, peer: Peer, key: str) -> None: ...


def _receiver(pipe: Connection, kind: str, tls: Path | None, total: int) -> None:
    buffer = _touched(total)
    if kind == "isthmus":
        party = ServerTls.load(tls) if tls else Plain()
        sink = _Sink(buffer)
        with Listener(("127.0.0.1", 0), party, sink) as listener:
            pipe.send(listener.address)
            pipe.recv()
            pipe.send(_cpu_s() - sink.cpu_s)
            return
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname())
        sock, _ = server.accept()
    if tls:
        sock = ServerTls.load(tls).context().wrap_socket(sock, server_side=True)
    with sock:
        raw.receive(sock, memoryview(buffer), min(total, _WARM_BYTES))
        start_s = _cpu_s()
        raw.receive(sock, memoryview(buffer), total)
    pipe.recv()
    pipe.send(_cpu_s() - start_s)


def _sender(pipe: Connection, kind: str, tls: Path | None, total: int, address: tuple[str, int]) -> None:
    payload = memoryview(_touched(total))
    if kind == "isthmus":
        party = ClientTls.load(tls, "bench") if tls else Plain("bench")
        with Session([address], party, _Sink(bytearray()), streams=STREAMS) as session:
            peer = session.wait_up(_TIMEOUT_S)

            def put(key: str, size: int) -> None:
                if not peer.put(key, payload[:size]).wait(_TIMEOUT_S):
                    raise TimeoutError("the transfer did not end")

            put("warm", _WARM_BYTES)
            pipe.send(_timed(lambda: put("k", total)))
            return
    sock = socket.create_connection(address)
    if tls:
        context = ClientTls.load(tls, "bench").context()
        sock = context.wrap_socket(sock, server_hostname=certs.SERVER_DNS)
    with sock:
        raw.send(sock, payload, CHUNK_BYTES, min(total, _WARM_BYTES))
        pipe.send(_timed(lambda: raw.send(sock, payload, CHUNK_BYTES, total)))


def _timed(send: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock, and seconds of CPU in this process."""
    start_s, start_cpu_s = time.perf_counter(), _cpu_s()
    send()
    return time.perf_counter() - start_s, _cpu_s() - start_cpu_s
