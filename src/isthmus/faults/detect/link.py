"""A link that is slower than it was, or loses more. (That it is cut the two ends of it notice: `wire.link`.)

Bandwidth, round trip and share of retransmissions each have a chart of their logarithm. What moves these
figures by itself (other traffic, the time of day) is slower or smaller than the shifts that are looked for
here.
"""

import math
from collections import defaultdict

import msgspec

from isthmus.faults.detect.cusum import Chart, ChartSettings
from isthmus.faults.detect.standing import Standing
from isthmus.faults.finding import Finding

_LEAST_SHARE = 0.002
"""Of retransmissions: fewer are as good as none."""
_LEAST_RTT_S = 0.02
"""Sooner than this it is the machines' processors that answer late."""
_MOST_MBPS = 1000.0
"""Above this it is the machines that set the rate, as much as the line."""


class LinkSample(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement of a link, as far as it was taken."""

    up_mbps: float | None = None
    down_mbps: float | None = None
    rtt_s: float | None = None
    retransmitted: float | None = None
    """Share of what was sent."""


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    bandwidth_ratio: float = 0.6
    rtt_ratio: float = 1.7
    retransmitted_ratio: float = 5.0
    smallest_sigma: float = 0.05
    run_length: float = 1e6


class LinkDetector:
    """A link is degraded from the first of its figures that got worse until all are back."""

    def __init__(self, standing: Standing, settings: LinkSettings | None = None):
        self._settings = settings or LinkSettings()
        self._standing = standing
        self._charts: dict[tuple[str, str], Chart] = {}
        self._worse: dict[str, set[str]] = defaultdict(set)

    def observe(self, now_s: float, name: str, sample: LinkSample) -> list[Finding]:
        """What is new after a measurement of this link."""
        settings, found = self._settings, []
        for figure, mbps in (("bandwidth up", sample.up_mbps), ("bandwidth down", sample.down_mbps)):
            if mbps:
                value = min(_MOST_MBPS, mbps)
                found += self._chart(now_s, name, figure, settings.bandwidth_ratio, value, "Mbit/s")
        if sample.rtt_s:
            value = max(_LEAST_RTT_S, sample.rtt_s)
            found += self._chart(now_s, name, "round trip", settings.rtt_ratio, value, "s")
        if sample.retransmitted is not None:
            value = max(_LEAST_SHARE, sample.retransmitted)
            found += self._chart(now_s, name, "retransmitted share", settings.retransmitted_ratio, value, "")
        return found

    def _chart(
        self, now_s: float, name: str, figure: str, ratio: float, value: float, unit: str
    ) -> list[Finding]:
        key = (name, figure)
        if key not in self._charts:
            self._charts[key] = Chart(
                ChartSettings(
                    shift=math.log(ratio),
                    run_length=self._settings.run_length,
                    smallest_sigma=self._settings.smallest_sigma,
                )
            )
        chart, worse = self._charts[key], self._worse[name]
        change = chart.add(math.log(value))
        if change == "back":
            worse.discard(figure)
            if not worse:
                self._standing.end(("link", name))
        if change != "shifted":
            return []
        worse.add(figure)
        times = math.exp(chart.size)
        finding = Finding(
            kind="network_degraded",
            rank=None,
            place=name,
            what=f"{figure} of {name} is {times:.2f} times what it was, now {value:.4g} {unit}".rstrip(),
            began_s=now_s,
            seen_s=now_s,
            lasting=False,
        )
        return self._standing.begin(("link", name), finding)
