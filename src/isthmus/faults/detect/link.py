"""A link that is slower than it was, loses more, or is cut.

Bandwidth, round trip and share of retransmissions each have a chart of their logarithm. What moves these
figures by itself (other traffic, the time of day) is slower or smaller than the shifts that are looked for
here.
"""

import math
from collections import deque

import msgspec

from isthmus.faults.detect.cusum import Chart, ChartSettings
from isthmus.faults.detect.readings import LinkSample, Readings
from isthmus.faults.detect.standing import Standing
from isthmus.faults.finding import Finding

_LEAST_SHARE = 0.002
"""Of retransmissions: fewer are as good as none."""


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    bandwidth_ratio: float = 0.6
    rtt_ratio: float = 1.7
    retransmitted_ratio: float = 5.0
    smallest_sigma: float = 0.05
    run_length: float = 1e6
    cut_floor_s: float = 3.0
    cut_factor: float = 6.0
    """Of the 99th percentile of the time between two words."""


class LinkDetector:
    def __init__(self, standing: Standing, settings: LinkSettings | None = None):
        self._settings = settings or LinkSettings()
        self._standing = standing
        self._charts: dict[tuple[str, str], Chart] = {}
        self._heard_s: dict[str, float] = {}
        self._gaps_s: dict[str, deque[float]] = {}

    def observe(self, now_s: float, readings: Readings) -> list[Finding]:
        found: list[Finding] = []
        for name, sample in readings.links.items():
            found += self._measure(now_s, name, sample)
        for name, heard_s in readings.heard_s.items():
            found += self._listen(now_s, name, heard_s)
        for name in [name for name in self._heard_s if name not in readings.heard_s]:
            del self._heard_s[name]
            self._standing.end(("partition", name))
        return found

    def _measure(self, now_s: float, name: str, sample: LinkSample) -> list[Finding]:
        settings, found = self._settings, []
        if sample.bandwidth_mbps:
            found += self._chart(now_s, name, "bandwidth", settings.bandwidth_ratio, sample.bandwidth_mbps)
        if sample.rtt_s:
            found += self._chart(now_s, name, "round trip", settings.rtt_ratio, sample.rtt_s)
        if sample.retransmitted is not None:
            share = max(_LEAST_SHARE, sample.retransmitted)
            found += self._chart(now_s, name, "retransmitted share", settings.retransmitted_ratio, share)
        return found

    def _chart(self, now_s: float, name: str, figure: str, ratio: float, value: float) -> list[Finding]:
        key = (name, figure)
        if key not in self._charts:
            self._charts[key] = Chart(
                ChartSettings(
                    shift=math.log(ratio),
                    run_length=self._settings.run_length,
                    smallest_sigma=self._settings.smallest_sigma,
                )
            )
        chart = self._charts[key]
        change = chart.add(math.log(value))
        if change == "back":
            self._standing.end(("link", name, figure))
        if change != "shifted":
            return []
        times = math.exp(chart.size)
        finding = Finding(
            kind="network_degraded",
            rank=None,
            place=name,
            what=f"{figure} of {name} is {times:.2f} times what it was, now {value:.4g}",
            began_s=now_s,
            seen_s=now_s,
            lasting=False,
        )
        return self._standing.begin(("link", name, figure), finding)

    def _listen(self, now_s: float, name: str, heard_s: float) -> list[Finding]:
        gaps = self._gaps_s.setdefault(name, deque(maxlen=256))
        last_s = self._heard_s.get(name)
        if last_s is not None and heard_s > last_s:
            gaps.append(heard_s - last_s)
            self._standing.end(("partition", name))
        self._heard_s[name] = heard_s
        ordered = sorted(gaps) if now_s - heard_s > self._settings.cut_floor_s else []
        p99_s = ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0
        bound_s = max(self._settings.cut_floor_s, self._settings.cut_factor * p99_s)
        if now_s - heard_s <= bound_s:
            return []
        finding = Finding(
            kind="partition",
            rank=None,
            place=name,
            what=f"no word over {name} for {now_s - heard_s:.1f} s",
            began_s=heard_s,
            seen_s=now_s,
            lasting=False,
        )
        return self._standing.begin(("partition", name), finding)
