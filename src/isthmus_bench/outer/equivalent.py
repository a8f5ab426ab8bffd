"""outer.equivalent_compute.* and outer.bytes*.*: what a link costs, in tokens and in bytes.

The machine's speed drifts within seconds, and two processes of the same program differ by per cents. So one
and the same sites take turns of some seconds: by themselves, while the server, the clients and the links
stand still, then joined, for a whole number of versions. What is only shown beside (fp32 that waits for its
transfers, torchft, one site at a time) runs between two launches of the sites without a server.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean
from typing import NamedTuple

from isthmus.journal.events import AnyEvent
from isthmus.spec.count import count_params
from isthmus_bench.document import Result
from isthmus_bench.netns import can_use_namespaces
from isthmus_bench.outer import measure, setup, torchft_peer
from isthmus_bench.outer.fleet import Alone, Fleet, Link, Run, sites
from isthmus_bench.outer.torchft_run import TorchftPair

LINK = Link()
QUOTAS = {2: 0.8, 3: 0.5}
"""Number of sites -> cores of each; the rest is for the server and the links."""
CODECS = ("int8", "int4")
FP32_WAITS = {"mode": "strict", "delay": 0, "codec": "fp32", "down_codec": "fp32"}
WAITED_SHARE = 0.52
"""Time that fp32 takes on the link over the compute time of a window: what H is chosen for; >= 0.5 asked."""
SKIP_STEPS = 5
APART_S = 4.0
VERSIONS = 3
"""Of a turn in which the sites are joined. One more goes before it, as all push at once after a pause."""
_PATIENCE_S = 60.0


class Size(NamedTuple):
    turns: int
    other_s: float
    """For each arm that is only shown beside."""
    torchft: tuple[tuple[int, int], ...]
    """(fragments, delay) of each arm of the peer."""


FULL = Size(14, 24.0, ((1, 0), (2, 1)))
QUICK = Size(1, 15.0, ((1, 0),))


class Arm(NamedTuple):
    """One codec."""

    ratios: list[float]
    """Of each pair of turns: tokens/s joined over tokens/s apart."""
    joined: float
    apart: float
    """Tokens/s, mean of the turns."""
    traffic: list[measure.Traffic]
    """Of each site that was quiet twice."""
    bound: list[float]
    """Of each site: share of the time in which it used up its quota."""


def run(quick: bool) -> list[Result]:
    """Minutes in quick mode, twenty otherwise."""
    size = QUICK if quick else FULL
    results: list[Result] = []
    for count in (2, 3):
        first = _alone(count, size.other_s)
        inner_steps = choose_inner_steps(LINK, count * setup.BATCH * setup.SEQ_LEN / first)
        arms = {codec: take_turns(count, codec, inner_steps, size.turns) for codec in CODECS}
        beside = _beside(count, inner_steps, size)
        results += [_equivalent(count, codec, inner_steps, arm, beside) for codec, arm in arms.items()]
        if count == 2:
            results += [row for codec, arm in arms.items() for row in _bytes(codec, arm.traffic)]
    return results


def take_turns(count: int, codec: str, inner_steps: int, turns: int) -> Arm:
    spec = setup.spec(inner_steps=inner_steps, codec=codec, down_codec=codec)
    joined: list[measure.Span] = []
    with Fleet(spec, dict.fromkeys(sites(count), QUOTAS[count]), link=LINK) as fleet:
        _take_up(fleet, VERSIONS)
        for _ in range(turns):
            fleet.train_apart(APART_S)
            joined.append(measure.Span(_take_up(fleet, 1), _take_up(fleet, VERSIONS)))
        events, bound = fleet.poll(), fleet.bound_shares()
    useful = measure.merged_share(events)
    rates = [
        (useful * _rate(events, fleet, there), _rate(events, fleet, apart))
        for there, apart in zip(joined, fleet.apart, strict=True)
    ]
    longest_s = fp32_transfer_s(LINK) / 4
    awake = measure.without_pauses([e for e in events if e.wall_s > fleet.bound_s], fleet.apart)
    return Arm(
        ratios=[there / apart for there, apart in rates],
        joined=mean(there for there, _ in rates),
        apart=mean(apart for _, apart in rates),
        traffic=list(filter(None, (measure.traffic(awake, site, longest_s) for site in fleet.cpus))),
        bound=bound,
    )


def _take_up(fleet: Fleet, count: int) -> float:
    """Waits until every site has taken up so many more versions; the time then."""
    enough = measure.version_of_all(fleet.poll(), list(fleet.cpus)) + count
    fleet.wait(lambda events: measure.version_of_all(events, list(fleet.cpus)) >= enough, _PATIENCE_S)
    return time.time()


def choose_inner_steps(link: Link, step_s: float) -> int:
    """The largest H whose compute time leaves fp32 `WAITED_SHARE` of it on the link, at least 2."""
    return max(2, math.floor(fp32_transfer_s(link) / WAITED_SHARE / step_s))


def fp32_transfer_s(link: Link) -> float:
    """All parameters up, then down, at the full rate of the link, and a round trip for each."""
    return 2 * (4 * count_params(setup.MODEL) * 8 / link.bandwidth_bps + link.round_trip_s)


def _rate(events: Sequence[AnyEvent], fleet: Run, span: measure.Span) -> float:
    """Tokens/s of all sites in the span."""
    return sum(measure.step_rate(events, site, span) for site in fleet.cpus)


def _whole_rate(fleet: Run) -> float:
    """Since all sites train under their quota, but for the first steps."""
    events = [event for event in fleet.poll() if event.wall_s > fleet.bound_s]
    return _rate(events, fleet, measure.common_span(events, list(fleet.cpus), SKIP_STEPS))


def _merged_rate(fleet: Run) -> float:
    events = [event for event in fleet.poll() if event.wall_s > fleet.bound_s]
    return sum(measure.merged_rate(events, site) for site in fleet.cpus)


def _alone(count: int, duration_s: float, num_started: int | None = None) -> float:
    """Tokens/s of `count` sites without a server; if only some are started, each stands for as many."""
    started = num_started or count
    with Alone(setup.spec(), dict.fromkeys(sites(started), QUOTAS[count])) as fleet:
        fleet.train_on(duration_s)
        return _whole_rate(fleet) * count / started


def _beside(count: int, inner_steps: int, size: Size) -> dict[str, float]:
    """Other arm -> its tokens/s over those of the sites without a server, launched before and after it."""
    ratios: dict[str, float] = {}
    before = _alone(count, size.other_s)
    for name, reach in _others(count, inner_steps, size).items():
        reached = reach()
        after = _alone(count, size.other_s)
        ratios[name] = 2 * reached / (before + after)
        before = after
    return ratios


def _others(count: int, inner_steps: int, size: Size) -> dict[str, Callable[[], float]]:
    cpus = dict.fromkeys(sites(count), QUOTAS[count])

    def reach(fleet: Run, rate: Callable[[Run], float]) -> float:
        with fleet:
            fleet.train_on(size.other_s)
            return rate(fleet)

    waits = Fleet(setup.spec(inner_steps=inner_steps, **FP32_WAITS), cpus, link=LINK)
    others = {
        "fp32, strict, delay 0": partial(reach, waits, _merged_rate),
        "one site at a time, without a server": partial(_alone, count, size.other_s, 1),
    }
    peer = torchft_peer.find()
    if count == 2 and peer and can_use_namespaces():
        for fragments, delay in size.torchft:
            spec = setup.spec(inner_steps=inner_steps - inner_steps % fragments)
            arguments = ["--fragments", str(fragments), "--delay", str(delay)]
            pair = TorchftPair(spec, cpus, peer=peer, arguments=arguments, link=LINK)
            name = f"{peer.name} (fp32, {fragments} fragment(s), delay {delay})"
            others[name] = partial(reach, pair, _whole_rate)
    return others


def _equivalent(count: int, codec: str, inner_steps: int, arm: Arm, beside: dict[str, float]) -> Result:
    fp32_s = fp32_transfer_s(LINK)
    window_s = inner_steps * count * setup.BATCH * setup.SEQ_LEN / arm.apart
    note = (
        f"{count} sites of {QUOTAS[count]:g} cores, {LINK.bandwidth_bps / 1e6:.0f} Mbit/s and "
        f"{LINK.round_trip_s * 1e3:.0f} ms each, TLS; H = {inner_steps}: window {window_s:.2f} s, fp32 both "
        f"ways {fp32_s:.2f} s, {fp32_s / window_s:.2f} of it; tokens/s trained and merged while joined "
        f"({arm.joined:.0f}) over those while server, clients and links stand still ({arm.apart:.0f}), "
        f"{len(arm.ratios)} turn(s) of each, single ones {min(arm.ratios):.2f} to {max(arm.ratios):.2f}; "
        f"{_bound(arm)}"
    )
    if count == 2 and torchft_peer.find() is None:
        note += f"; {torchft_peer.missing_note()}"
    name = f"outer.equivalent_compute.{count}sites.{codec}"
    return Result(name, arm.joined / arm.apart, "ratio", beside, note)


def _bound(arm: Arm) -> str:
    if not arm.bound:
        return "without quotas"
    return f"the sites used up their quota in {min(arm.bound):.0%} of the periods or more"


def _bytes(codec: str, each: Sequence[measure.Traffic]) -> list[Result]:
    plain = 4 * count_params(setup.MODEL)
    pushes, versions = sum(t.pushes for t in each), sum(t.versions for t in each)
    up, down = sum(t.bytes_up for t in each), sum(t.bytes_down for t in each)
    if not pushes or not versions:
        return []
    note = f"{plain} bytes in fp32; {{}} counted above TLS, frames and control messages included"
    return [
        Result(f"outer.bytes.{codec}", plain * pushes / up, "ratio", note=note.format(f"{pushes} pushes")),
        Result(
            f"outer.bytes_down.{codec}",
            plain * versions / down,
            "ratio",
            note=note.format(f"{versions} versions"),
        ),
    ]
