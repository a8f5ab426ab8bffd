"""Leaks, and what is none."""

import math
import random
from collections.abc import Callable

import pytest
from pages import view

from isthmus.faults.detect import Process, Readings
from isthmus.faults.detect.memory import MemoryDetector, MemorySettings
from isthmus.faults.detect.standing import Standing
from isthmus.faults.detect.trend import Climb
from isthmus.faults.finding import Finding

GIB = 1 << 30
LIMIT = 16 * GIB


def first_eta(
    figure: Callable[[float], float], duration_s: float, limit: float
) -> tuple[float, float] | None:
    """When a trend is first seen, and the time of meeting the limit that it predicts."""
    climb = Climb()
    for n in range(round(duration_s / 0.25)):
        now_s = n * 0.25
        if climb.add(now_s, figure(now_s)) and (eta_s := climb.eta_s(limit)) is not None:
            return now_s, now_s + eta_s
    return None


@pytest.mark.parametrize("full_s", [60, 300, 1200])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_leak_is_seen_before_it_is_too_late(full_s, noise):
    draw = random.Random(2)
    found = first_eta(
        lambda now_s: 4 + 12 * now_s / full_s + noise * abs(draw.gauss(0, 1)), full_s * 0.95, limit=16
    )
    assert found is not None
    seen_s, end_s = found
    assert seen_s < 0.8 * full_s
    assert end_s == pytest.approx(full_s, rel=0.25)


def test_a_leak_under_a_sawtooth_is_seen():
    found = first_eta(lambda now_s: 4 + 12 * now_s / 600 + (now_s % 7) / 7, 590, limit=16)
    assert found is not None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "shape",
    [
        lambda now_s: 9.0,
        lambda now_s: 4 + 8 * (1 - math.exp(-now_s / 40)),
        lambda now_s: 4 + 8 * (1 - math.exp(-now_s / 400)),
        lambda now_s: 4 + 2 * (now_s % 60) / 60,
        lambda now_s: 4 + 2.5 * (now_s % 700) / 700,
        lambda now_s: min(6.0, 4 + now_s / 100),
        lambda now_s: 4 + 0.001 * now_s,
        lambda now_s: 4 + math.log1p(now_s),
    ],
)
def test_what_levels_off_or_comes_back_is_no_leak(shape, seed):
    draw = random.Random(seed)
    assert first_eta(lambda now_s: shape(now_s) + 0.05 * draw.gauss(0, 1), 3600, limit=32) is None


def observe(figure: Callable[[float], float], duration_s: float, kind: str = "host") -> list[Finding]:
    settings = MemorySettings(host_limit={"n": LIMIT + 5 * GIB})
    detector, found = MemoryDetector(Standing(), settings), []
    for n in range(round(duration_s / 0.25)):
        now_s = n * 0.25
        used = {0: int(figure(now_s) * GIB), 1: 5 * GIB}
        host = used if kind == "host" else {0: GIB, 1: GIB}
        device = {r: dict(memory=used[r], memory_limit=LIMIT) if kind == "device" else {} for r in (0, 1)}
        readings = Readings(
            ranks=(0, 1),
            homes={0: "n", 1: "n"},
            views={r: view(step=n, **device[r]) for r in (0, 1)},
            processes={r: Process(letter="R", cpu_s=0.0, rss=host[r]) for r in (0, 1)},
        )
        found += detector.observe(now_s, readings)
    return found


@pytest.mark.parametrize("kind", ["host", "device"])
def test_the_rank_that_leaks_is_named_once_with_the_time_left(kind):
    (finding,) = observe(lambda now_s: 2 + 14 * now_s / 600, 560, kind)
    assert (finding.kind, finding.rank, finding.lasting) == (f"oom_{kind}", 0, False)
    assert " min" in finding.what


def test_a_start_is_no_leak():
    assert observe(lambda now_s: min(14.0, 2 + 3 * now_s), 300) == []


def test_steady_use_close_to_the_limit_is_no_leak():
    draw = random.Random(3)
    assert observe(lambda now_s: 15.5 + 0.1 * draw.random(), 1200) == []
