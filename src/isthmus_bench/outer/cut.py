"""outer.link_cut.resent_chunks: a site's link is cut for ten seconds in the middle of a transfer."""

import time
from collections.abc import Sequence
from pathlib import Path

from isthmus.errors import IsthmusError
from isthmus.journal.events import AnyEvent, ContributionReceived, Fault, LinkSample
from isthmus_bench.document import Result
from isthmus_bench.outer import setup
from isthmus_bench.outer.fleet import Fleet, Link, sites

CUT_S = 10.0
LINK = Link(bandwidth_bps=20e6)
"""Slow, so that the middle of a transfer is easy to hit: 9.4 MB in fp32 take 4 s."""
INNER_STEPS = 20
STREAMS = 2
SITE, OTHER = sites(2)
_FIRST_PUSHES = 2
_MIDDLE = (0.3, 0.7)
"""Shares of a push between which the cut comes."""


def run(quick: bool) -> list[Result]:
    """About a minute; three cuts, one in quick mode."""
    spec = setup.spec(inner_steps=INNER_STEPS, codec="fp32", down_codec="fp32", streams=STREAMS)
    cuts: list[float] = []
    with Fleet(spec, dict.fromkeys((SITE, OTHER), 0.8), link=LINK) as fleet:
        fleet.wait(lambda events: _pushes(events) >= _FIRST_PUSHES, 180.0)
        for _ in range(1 if quick else 3):
            before = _resent(fleet.poll())
            _wait_for_middle(fleet)
            arrived = _pushes(fleet.poll())
            fleet.star.cut(SITE, CUT_S)
            fleet.train_on(CUT_S)
            fleet.wait(lambda events, arrived=arrived: _pushes(events) >= arrived + 2, 120.0)
            fleet.train_on(3.0)
            cuts.append((_resent(fleet.poll()) - before) / STREAMS)
        events = fleet.poll()
        kind = fleet.star.kind
    downs = sum(isinstance(event, Fault) and event.kind == "link_down" for event in events)
    note = (
        f"worst of {len(cuts)} cuts of {CUT_S:.0f} s in the middle of a 9.4 MB push, {STREAMS} streams, "
        f"chunks of 1 MiB; {kind}, {LINK.bandwidth_bps / 1e6:.0f} Mbit/s; the link was dialled again {downs} "
        "times"
    )
    return [Result("outer.link_cut.resent_chunks", max(cuts), "count per stream", note=note)]


def _pushes(events: Sequence[AnyEvent]) -> int:
    return sum(isinstance(event, ContributionReceived) and event.site == SITE for event in events)


def _resent(events: Sequence[AnyEvent]) -> int:
    samples = [event for event in events if isinstance(event, LinkSample) and event.site == SITE]
    return samples[-1].resent_chunks if samples else 0


def _wait_for_middle(fleet: Fleet) -> None:
    """Returns while a push is under way, by what the client's namespace has sent. Raises IsthmusError."""
    client = next(place.client for place in fleet.places if place.name == SITE)
    assert client
    assert client.process
    size = fleet.plan.site(SITE).bytes_up
    deadline_s = time.monotonic() + 60.0
    idle = last = sent_bytes(client.process.pid)
    while time.monotonic() < deadline_s:
        time.sleep(0.1)
        now = sent_bytes(client.process.pid)
        if now - last < LINK.bandwidth_bps / 8 * 0.1 * 0.3:
            idle = now
        elif _MIDDLE[0] * size < now - idle < _MIDDLE[1] * size:
            return
        last = now
    raise IsthmusError("no push was under way within a minute", where="outer.link_cut")


def sent_bytes(pid: int) -> int:
    """By all devices of the process's network namespace."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return sum(int(line.split(":")[1].split()[8]) for line in lines)
