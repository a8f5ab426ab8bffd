"""What a site's client finds wrong with its links."""

import random
from collections.abc import Iterator

import pytest

from isthmus.journal import events
from isthmus.outer.client_links import JUDGED, SAMPLE_S, LinkWatch
from isthmus.wire.meter import Measured


class Line:
    """A peer by what was measured of it."""

    def __init__(self) -> None:
        self.draw = random.Random(5)
        self.up_bps, self.rtt_s, self.offset_s = 80e6, 0.03, 0.0

    def measured(self) -> Measured:
        noise = self.draw.uniform(0.95, 1.05)
        return Measured(self.up_bps * noise, None, self.rtt_s * noise, self.offset_s, None)


class Look:
    def __init__(self) -> None:
        self.watch, self.line, self.now_s = LinkWatch("jinan"), Line(), 0.0

    def judge(self, times: int, contention: float = 2.0) -> list[events.Fault | events.Recovered]:
        return [told for _ in range(times * JUDGED) for told in self._once(contention)]

    def _once(self, contention: float) -> Iterator[events.Fault | events.Recovered]:
        self.now_s += SAMPLE_S
        yield from self.watch.look(self.now_s, {"server": self.line}, contention)  # pyright: ignore


@pytest.fixture
def look() -> Look:
    look = Look()
    assert look.judge(40) == []
    return look


def test_a_link_with_half_its_bandwidth_is_told_and_when_it_has_all_of_it_again(look):
    look.line.up_bps /= 2
    (fault,) = look.judge(15)
    assert (fault.subject, fault.kind) == ("link/jinan", "network_degraded")
    assert "bandwidth up of server is 0." in fault.detail
    look.line.up_bps *= 2
    (over,) = look.judge(15)
    assert isinstance(over, events.Recovered)
    assert (over.subject, over.kind) == ("link/jinan", "network_degraded")
    assert 60.0 < over.after_s < 180.0


def test_what_is_measured_while_others_want_the_processors_counts_for_nothing(look):
    look.line.up_bps, look.line.rtt_s = 10e6, 0.5
    assert look.judge(15, contention=5.0) == []
    look.line.up_bps, look.line.rtt_s = 80e6, 0.03
    assert look.judge(40) == []


def test_a_machine_that_is_always_crowded_is_used_to_it():
    look = Look()
    assert look.judge(40, contention=8.0) == []
    look.line.rtt_s *= 3
    (fault,) = look.judge(15, contention=8.0)
    assert "round trip" in fault.detail


def test_a_clock_that_runs_off_is_told_of_the_site(look):
    look.line.offset_s = -1.5
    told = look.judge(10)
    assert [(each.subject, each.kind) for each in told if isinstance(each, events.Fault)] == [
        ("site jinan", "config"), ("site jinan", "config"),
    ]  # fmt: skip
    assert "jumped by -1.5" in told[0].detail
    assert "off by -1.5" in told[1].detail
