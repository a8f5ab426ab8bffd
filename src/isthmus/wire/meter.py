"""What a link does: bytes, round trip, and the rate it reaches while it is busy."""

from collections import deque
from statistics import median
from typing import NamedTuple

_SAMPLE_S = 0.5
_STEADY_S = 0.2
"""What is through in less says more of the two machines than of the line."""
_FRESH = 64
_MIN_SAMPLE_BYTES = 64 << 10
_SMOOTHING = 0.3


class LinkStats(NamedTuple):
    """'up' is towards the server, on both sides. Bytes count frames with their headers, above TLS."""

    bytes_up: int
    bytes_down: int
    rtt_s: float
    """Smoothed; 0 until measured."""
    up_bps: float
    down_bps: float
    """Bits per second while transfers were under way; 0 until measured."""
    resent_chunks: int
    """Chunks this side had to send again."""


class Measured(NamedTuple):
    """What was measured since it was last asked for; None: nothing."""

    up_bps: float | None
    down_bps: float | None
    """Median of the periods in which transfers were under way for some tenths of a second."""
    rtt_s: float | None
    """The least of those beside no transfer."""
    clock_offset_s: float | None
    """Their wall clock minus ours, right to half of that round trip."""
    resent: float | None
    """Share of the packets sent that were sent again; None where the system does not tell."""


class RateMeter:
    """Bytes over the time in which at least one chunk was under way, smoothed over periods."""

    def __init__(self) -> None:
        self.bps = 0.0
        self._active = 0
        self._since_s = 0.0
        self._bytes = 0
        self._latency_s = 0.0
        self._fresh: deque[float] = deque(maxlen=_FRESH)

    @property
    def is_active(self) -> bool:
        return self._active > 0

    def begin(self, now_s: float, latency_s: float = 0.0) -> None:
        """A chunk starts. `latency_s`: what a period spends waiting for its first confirmation."""
        if self._active == 0:
            self._since_s, self._bytes, self._latency_s = now_s, 0, latency_s
        self._active += 1

    def end(self, now_s: float, num_bytes: int) -> None:
        """A chunk is through, or (0 bytes) was given up."""
        self._bytes += num_bytes
        self._active = max(0, self._active - 1)
        if self._active == 0 or now_s - self._since_s >= _SAMPLE_S:
            self._sample(now_s)

    def reset(self) -> None:
        """Everything under way is gone."""
        self._active = 0

    def take_fresh(self) -> float | None:
        """Median of the periods since the last call."""
        fresh = median(self._fresh) if self._fresh else None
        self._fresh.clear()
        return fresh

    def _sample(self, now_s: float) -> None:
        duration_s = now_s - self._since_s
        busy_s = max(duration_s - self._latency_s, duration_s / 4)
        if self._bytes >= _MIN_SAMPLE_BYTES and busy_s > 0:
            bps = self._bytes * 8 / busy_s
            self.bps = bps if self.bps == 0 else self.bps + _SMOOTHING * (bps - self.bps)
            if duration_s >= _STEADY_S:
                self._fresh.append(bps)
        self._since_s, self._bytes, self._latency_s = now_s, 0, 0.0


class RttMeter:
    """Round trips: smoothed, the smallest, and their spread (mean deviation, as TCP takes it)."""

    def __init__(self) -> None:
        self.smooth_s = 0.0
        self.least_s = 0.0
        self.jitter_s = 0.0
        self._fresh: deque[tuple[float, float]] = deque(maxlen=_FRESH)

    def add(self, rtt_s: float, clock_offset_s: float | None = None) -> None:
        """Without an offset it is not taken for fresh."""
        if clock_offset_s is not None:
            self._fresh.append((rtt_s, clock_offset_s))
        if self.smooth_s == 0:
            self.smooth_s = self.least_s = rtt_s
            return
        self.jitter_s += (abs(rtt_s - self.smooth_s) - self.jitter_s) / 4
        self.smooth_s += (rtt_s - self.smooth_s) / 8
        self.least_s = min(self.least_s, rtt_s)

    def take_fresh(self) -> tuple[float, float] | None:
        """The shortest round trip since the last call, with the clocks' offset it shows."""
        fresh = min(self._fresh) if self._fresh else None
        self._fresh.clear()
        return fresh
