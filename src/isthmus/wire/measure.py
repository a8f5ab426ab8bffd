"""The asking side of a probe: what a link can do, and whether both ends mean the same run."""

import itertools
import secrets
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from isthmus.errors import UnreachableError
from isthmus.units import Bandwidth, Seconds
from isthmus.wire import handshake, probe
from isthmus.wire.channel import Channel, congestion_control, tcp_counters
from isthmus.wire.frames import FrameError
from isthmus.wire.handshake import Address, Timing
from isthmus.wire.hello import Hello
from isthmus.wire.tls import ClientTls, Plain

NUM_ECHOES = 20
BURST_S = 3.0
MAX_CLOCK_OFFSET_S = 2.0
MAX_LOSS = 0.01
MIN_MTU = 1280
_ANSWER_S = 60.0


class LinkReport(msgspec.Struct, frozen=True, kw_only=True):
    """A measured link. Rates in bits per second of payload, times in seconds, losses as shares of the
    segments sent that had to be sent again; 'up' is towards the server."""

    server: str
    rtt_s: float
    jitter_s: float
    up_bps: float
    down_bps: float
    mtu: int
    mss: int
    loss_up: float
    loss_down: float
    clock_offset_s: float
    """Their wall clock minus ours."""
    congestion: str
    streams: int
    facts: dict[str, str]
    problems: list[str] = []


def measure(
    address: Address,
    tls: ClientTls | Plain,
    streams: int = 2,
    congestion: str = "bbr",
    *,
    on_stage: Callable[[str], None] = lambda _: None,
    burst_s: float = BURST_S,
) -> LinkReport:
    """Measures the link to a listening server. Raises AuthError or UnreachableError.

    `on_stage` hears what begins: 'delay', 'up', 'down', 'facts'.
    """
    hello = Hello(
        site=tls.name,
        token="" if isinstance(tls, Plain) else tls.token,
        session=secrets.token_hex(8),
        role="probe",
        congestion=congestion,
    )
    channels: list[Channel] = []
    try:
        for _ in range(streams):
            channel, _, _ = handshake.call(address, tls, hello, Timing())
            channel.sock.settimeout(_ANSWER_S)
            channels.append(channel)
        return _measure(address, channels, on_stage, burst_s)
    except (OSError, FrameError) as error:
        raise UnreachableError(
            f"the link broke while it was measured: {error}", where=handshake.format_address(address)
        ) from None
    finally:
        for channel in channels:
            channel.close()


def _measure(
    address: Address, channels: list[Channel], on_stage: Callable[[str], None], burst_s: float
) -> LinkReport:
    first = channels[0]
    on_stage("delay")
    rtts, offsets = zip(*(_echo(first) for _ in range(NUM_ECHOES)), strict=True)
    on_stage("up")
    before = [tcp_counters(channel.sock) for channel in channels]
    up_bps, _ = _burst(channels, "sink", burst_s)
    after = [tcp_counters(channel.sock) for channel in channels]
    on_stage("down")
    down_bps, tallies = _burst(channels, "source", burst_s)
    on_stage("facts")
    probe.say(first, probe.Request("facts"))
    facts = probe.hear(first, dict[str, str])
    for channel in channels:
        probe.say(channel, probe.Request("bye"))
    counters = tcp_counters(first.sock)

    def gone(counter: str) -> int:
        return sum(b.get(counter, 0) - a.get(counter, 0) for a, b in zip(before, after, strict=True))

    nearest = rtts.index(min(rtts))
    return LinkReport(
        server=handshake.format_address(address),
        rtt_s=statistics.median(rtts),
        jitter_s=statistics.fmean(abs(b - a) for a, b in itertools.pairwise(rtts)),
        up_bps=up_bps,
        down_bps=down_bps,
        mtu=counters.get("pmtu", 0),
        mss=counters.get("mss", 0),
        loss_up=_share(gone("retransmitted"), gone("segments_out")),
        loss_down=_share(
            sum(tally.retransmitted for tally in tallies), sum(tally.segments_out for tally in tallies)
        ),
        clock_offset_s=offsets[nearest],
        congestion=congestion_control(first.sock),
        streams=len(channels),
        facts=facts,
    )


def find_problems(report: LinkReport, expected: Mapping[str, str]) -> list[str]:
    """What stands in the way of a run, each with its remedy. `expected`: this side's facts, '' where
    unknown."""
    problems = []
    if abs(report.clock_offset_s) > MAX_CLOCK_OFFSET_S:
        side = "ahead of" if report.clock_offset_s > 0 else "behind"
        problems.append(
            f"the server's clock is {Seconds(abs(report.clock_offset_s))} {side} this one: "
            "certificates may be refused and journals will not line up; set both by NTP"
        )
    for way, loss in (("up", report.loss_up), ("down", report.loss_down)):
        if loss > MAX_LOSS:
            problems.append(
                f"{loss:.1%} of the segments {way} were lost: ask the carrier, and use bbr "
                f"(this socket used {report.congestion or 'an unknown congestion control'})"
            )
    if 0 < report.mtu < MIN_MTU:
        problems.append(f"the path takes only {report.mtu} bytes per packet: look for a tunnel on the way")
    for way, bps in (("up", report.up_bps), ("down", report.down_bps)):
        if bps <= 0:
            problems.append(f"nothing arrived {way} within the burst: is the link cut?")
    for name, ours in expected.items():
        theirs = report.facts.get(name, "")
        if theirs and ours and theirs != ours:
            problems.append(
                f"'{name}' differs: {ours} here, {theirs} at the server; both sides need the same "
                + ("version of isthmus" if name in ("code", "wire") else "run.yaml")
            )
    return problems


def describe(report: LinkReport) -> list[tuple[str, str]]:
    """The report as rows for people."""
    return [
        ("server", report.server),
        ("round trip", f"{Seconds(report.rtt_s)}, jitter {Seconds(report.jitter_s)}"),
        ("bandwidth up", f"{Bandwidth(report.up_bps)} over {report.streams} streams"),
        ("bandwidth down", f"{Bandwidth(report.down_bps)} over {report.streams} streams"),
        ("sent again up", f"{report.loss_up:.2%} of segments"),
        ("sent again down", f"{report.loss_down:.2%} of segments"),
        ("path MTU", f"{report.mtu} bytes, TCP segments of {report.mss}"),
        ("congestion control", report.congestion or "unknown"),
        ("clock", f"theirs {report.clock_offset_s * 1e3:+.1f} ms"),
        *((f"theirs: {name}", value) for name, value in sorted(report.facts.items())),
    ]


def _echo(channel: Channel) -> tuple[float, float]:
    """Round trip, and their clock minus ours."""
    start_s = time.monotonic()
    probe.say(channel, probe.Request("echo"))
    tally = probe.hear(channel, probe.Tally)
    rtt_s = time.monotonic() - start_s
    return rtt_s, tally.wall_s + rtt_s / 2 - time.time()


def _burst(channels: list[Channel], what: str, burst_s: float) -> tuple[float, list[probe.Tally]]:
    """All channels at once. Returns bits per second at the receiving end, and what the server counted."""
    with ThreadPoolExecutor(len(channels), thread_name_prefix="probe") as pool:
        done = list(pool.map(lambda channel: _one_burst(channel, what, burst_s), channels))
    bps = sum(read.num_bytes * 8 / read.duration_s for read, _ in done if read.duration_s > 0)
    return bps, [server for _, server in done]


def _one_burst(channel: Channel, what: str, burst_s: float) -> tuple[probe.Tally, probe.Tally]:
    """What the reading end counted, and what the server said."""
    probe.say(channel, probe.Request(what, burst_s))
    if what == "sink":
        probe.source(channel, memoryview(bytes(probe.PIECE_BYTES)), burst_s)
        tally = probe.hear(channel, probe.Tally)
        return tally, tally
    read = probe.sink(channel, Timing())
    return read, probe.hear(channel, probe.Tally)


def _share(part: int, whole: int) -> float:
    return part / whole if whole > 0 else 0.0
