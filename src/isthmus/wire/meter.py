"""What a link does: bytes, round trip, and the rate it reaches while it is busy."""

from typing import NamedTuple

_SAMPLE_S = 0.5
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


class RateMeter:
    """Bytes over the time in which at least one chunk was under way, smoothed over periods."""

    def __init__(self) -> None:
        self.bps = 0.0
        self._active = 0
        self._since_s = 0.0
        self._bytes = 0
        self._latency_s = 0.0

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

    def _sample(self, now_s: float) -> None:
        duration_s = now_s - self._since_s
        busy_s = max(duration_s - self._latency_s, duration_s / 4)
        if self._bytes >= _MIN_SAMPLE_BYTES and busy_s > 0:
            bps = self._bytes * 8 / busy_s
            self.bps = bps if self.bps == 0 else self.bps + _SMOOTHING * (bps - self.bps)
        self._since_s, self._bytes, self._latency_s = now_s, 0, 0.0


class RttMeter:
    """Round trips: smoothed, the smallest, and their spread (mean deviation, as TCP takes it)."""

    def __init__(self) -> None:
        self.smooth_s = 0.0
        self.least_s = 0.0
        self.jitter_s = 0.0

    def add(self, rtt_s: float) -> None:
        if self.smooth_s == 0:
            self.smooth_s = self.least_s = rtt_s
            return
        self.jitter_s += (abs(rtt_s - self.smooth_s) - self.jitter_s) / 4
        self.smooth_s += (rtt_s - self.smooth_s) / 8
        self.least_s = min(self.least_s, rtt_s)
