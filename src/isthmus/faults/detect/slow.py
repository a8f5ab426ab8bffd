"""A rank that computes slower than it did, beside the others.

Of each step the logarithm of a rank's compute time, less the median of the others, each first freed of its
own usual level: what all share (a burst on the machine, longer rows) drops out, and a chip that always took
1.5 times as long is no news, unless `expected` says what it should take. A `Chart` per rank finds the
shift. Two ranks can be told apart only by which of them got slower; one has nobody beside it and is not
judged.
"""

import math
from collections.abc import Sequence

import msgspec

from isthmus.faults.detect.cusum import Chart, ChartSettings
from isthmus.faults.detect.readings import Readings
from isthmus.faults.detect.standing import Standing
from isthmus.faults.finding import Finding

_HELD_STEPS = 64


class SlowSettings(msgspec.Struct, frozen=True, kw_only=True):
    ratio: float = 1.2
    """So many times as long as usual is to be found."""
    run_length: float = 1e6
    """Steps of a rank between false alarms, on the mean, for noise without tails."""
    least_s: float = 0.01
    """Shorter steps tell of the machine's scheduling, not of its chips."""
    most_noise: float = 0.15
    """Of the logarithm; a rank whose times scatter more is not judged."""
    expected: dict[int, float] = {}
    """Compute time of ranks beside the median rank, where a plan says it; the rest is learnt."""


class SlowDetector:
    def __init__(self, standing: Standing, settings: SlowSettings | None = None):
        self._settings = settings or SlowSettings()
        self._standing = standing
        self._charts: dict[int, Chart] = {}
        self._pids: dict[int, int] = {}
        self._began_s: dict[int, float] = {}
        self._times: dict[int, dict[int, float]] = {}
        """Logarithm of compute seconds by step, by rank, of steps that not all ranks have told yet."""

    def observe(self, now_s: float, readings: Readings) -> list[Finding]:
        self._forget_replaced(readings)
        for rank, records in readings.steps.items():
            for record in records:
                if record.compute_s >= self._settings.least_s:
                    self._times.setdefault(record.step, {})[rank] = math.log(record.compute_s)
        found: list[Finding] = []
        wanted = set(readings.ranks)
        for step in sorted(self._times):
            if len(wanted) > 1 and wanted <= self._times[step].keys():
                found += self._judge(now_s, step, self._times.pop(step))
        for step in sorted(self._times)[:-_HELD_STEPS]:
            del self._times[step]
        return found

    def _forget_replaced(self, readings: Readings) -> None:
        """Another process may be on another chip; steps that are done again replace the old."""
        for rank, view in readings.views.items():
            if self._pids.setdefault(rank, view.pid) != view.pid:
                self._pids[rank] = view.pid
                self._charts.pop(rank, None)
                self._standing.end(("slow", rank))
                self._times.clear()

    def _chart(self, rank: int) -> Chart:
        if rank not in self._charts:
            expected = self._settings.expected.get(rank)
            level = math.log(expected) if expected else None
            shift = math.log(self._settings.ratio)
            self._charts[rank] = Chart(
                ChartSettings(shift=shift, run_length=self._settings.run_length, level=level)
            )
        return self._charts[rank]

    def _judge(self, now_s: float, step: int, times: dict[int, float]) -> list[Finding]:
        charts = {rank: self._chart(rank) for rank in times}
        level_free = {rank: time - charts[rank].level for rank, time in times.items()}
        ordered = sorted(level_free.values())
        found: list[Finding] = []
        for rank, time in times.items():
            chart = charts[rank]
            change = chart.add(time - _median_without(ordered, level_free[rank]))
            if change == "back":
                self._standing.end(("slow", rank))
            elif change == "shifted" and chart.sigma <= self._settings.most_noise:
                found += self._tell(now_s, step, rank, chart)
            elif chart.since <= 1:
                self._began_s[rank] = now_s
        return found

    def _tell(self, now_s: float, step: int, rank: int, chart: Chart) -> list[Finding]:
        ratio = math.exp(chart.size)
        finding = Finding(
            kind="fail_slow",
            rank=rank,
            what=f"rank {rank} computes {ratio:.2f} times as long as usual beside the others, for "
            f"{chart.since} steps up to {step} (noise {100 * chart.sigma:.1f} %)",
            began_s=self._began_s.get(rank, now_s),
            seen_s=now_s,
            suspects=(rank,),
            lasting=False,
        )
        return self._standing.begin(("slow", rank), finding)


def _median_without(ordered: Sequence[float], value: float) -> float:
    """Median of sorted values, one of them left out."""
    gone = ordered.index(value)
    at = lambda n: ordered[n if n < gone else n + 1]  # noqa: E731
    count = len(ordered) - 1
    return at(count // 2) if count % 2 else (at(count // 2 - 1) + at(count // 2)) / 2
