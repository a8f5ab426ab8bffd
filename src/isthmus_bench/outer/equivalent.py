"""outer.equivalent_compute.* and outer.bytes*.*: what a link costs, in tokens and in bytes.

Arms take turns on one machine, each with sites of equal CPU quota: alone at the same time, joined with int8,
joined with int4, joined with fp32 that waits for its transfers, and torchft. A figure is the median over the
rounds of a ratio within one round, as the machine's speed drifts between them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from isthmus.journal.events import AnyEvent
from isthmus.spec.count import count_params
from isthmus.spec.run import RunSpec
from isthmus_bench.document import Result
from isthmus_bench.netns import can_use_namespaces
from isthmus_bench.outer import measure, setup, torchft_peer
from isthmus_bench.outer.fleet import Alone, Fleet, Link, sites
from isthmus_bench.outer.torchft_run import TorchftPair

QUOTAS = {2: 0.8, 3: 0.5}
"""Number of sites -> cores of each; the rest is for the server and the links."""
CODECS = ("int8", "int4")
WAITED_SHARE = 0.52
"""Time that fp32 takes on the link over the compute time of a window: what H is chosen for; >= 0.5 asked."""
SKIP_STEPS = 5


@dataclass
class Rounds:
    """Tokens/s of each arm in each round."""

    link: Link
    quota: float
    inner_steps: int
    window_s: float
    alone: list[float] = field(default_factory=list)
    apart: float = 0.0
    """The first site with no other at the same time, times the number of sites."""
    joined: dict[str, list[float]] = field(default_factory=dict)
    traffic: dict[str, list[measure.Traffic]] = field(default_factory=dict)
    bound: list[float] = field(default_factory=list)
    """Of each site of the arms that count: share of the time in which it used up its quota."""

    def ratio(self, arm: str) -> float:
        """Of the rounds in which both ran; nan if there is none."""
        both = zip(self.joined.get(arm, []), self.alone, strict=False)
        ratios = [joined / alone for joined, alone in both]
        return median(ratios) if ratios else math.nan


class Size(NamedTuple):
    duration_s: float
    rounds: int
    torchft: tuple[tuple[int, int], ...]
    """(fragments, delay) of each arm of the peer."""


FULL = Size(40.0, 3, ((1, 0), (2, 1)))
QUICK = Size(15.0, 1, ((1, 0),))


def run(quick: bool) -> list[Result]:
    """Minutes in quick mode, a quarter of an hour otherwise."""
    size = QUICK if quick else FULL
    results: list[Result] = []
    for count in (2, 3):
        measured = measure_rounds(count, size)
        results += _equivalent(count, measured)
        if count == 2:
            results += [row for codec in CODECS for row in _bytes(codec, measured.traffic[codec])]
    return results


def measure_rounds(count: int, size: Size) -> Rounds:
    """Arms that are only shown beside the figures run in the first round alone."""
    link, cpus = Link(), dict.fromkeys(sites(count), QUOTAS[count])
    first, bound = _alone(cpus, size.duration_s)
    step_s = count * setup.BATCH * setup.SEQ_LEN / first
    inner_steps = choose_inner_steps(link, step_s)
    done = Rounds(link, QUOTAS[count], inner_steps, inner_steps * step_s, bound=bound)
    for number in range(size.rounds):
        rate, bound = _alone(cpus, size.duration_s) if number else (first, [])
        done.alone.append(rate)
        done.bound.extend(bound)
        for codec in CODECS:
            spec = setup.spec(inner_steps=inner_steps, codec=codec, down_codec=codec)
            _join(done, codec, spec, cpus, size.duration_s)
        if number == 0:
            waits = {"mode": "strict", "delay": 0, "codec": "fp32", "down_codec": "fp32"}
            _join(done, "fp32", setup.spec(inner_steps=inner_steps, **waits), cpus, size.duration_s)
            if count == 2:
                _torchft(done, cpus, size)
    done.apart = count * _alone({name: cpus[name] for name in sites(1)}, size.duration_s)[0]
    return done


def choose_inner_steps(link: Link, step_s: float) -> int:
    """The largest H whose compute time leaves fp32 `WAITED_SHARE` of it on the link; even, at least 2."""
    return max(2, math.floor(fp32_transfer_s(link) / WAITED_SHARE / step_s / 2) * 2)


def fp32_transfer_s(link: Link) -> float:
    """All parameters up, then down, at the full rate of the link, and a round trip for each."""
    return 2 * (4 * count_params(setup.MODEL) * 8 / link.bandwidth_bps + link.round_trip_s)


def _alone(cpus: Mapping[str, float], duration_s: float) -> tuple[float, list[float]]:
    """Tokens/s of all sites, and how far each was bound by its quota."""
    with Alone(setup.spec(), cpus) as run:
        events, bound = run.train_on(duration_s), run.bound_shares()
    return _step_rate(events, run.bound_s, list(cpus)), bound


def _step_rate(events: Sequence[AnyEvent], bound_s: float, names: Sequence[str]) -> float:
    after = [event for event in events if event.wall_s > bound_s]
    span = measure.common_span(after, names, SKIP_STEPS)
    return sum(measure.step_rate(events, site, span) for site in names)


def _join(done: Rounds, arm: str, spec: RunSpec, cpus: Mapping[str, float], duration_s: float) -> None:
    with Fleet(spec, cpus, link=done.link) as run:
        events = [event for event in run.train_on(duration_s) if event.wall_s > run.bound_s]
        bound = run.bound_shares()
    done.joined.setdefault(arm, []).append(sum(measure.merged_rate(events, site) for site in cpus))
    if arm in CODECS:
        done.bound.extend(bound)
        longest_s = fp32_transfer_s(done.link) / 4
        done.traffic.setdefault(arm, []).extend(measure.traffic(events, site, longest_s) for site in cpus)


def _torchft(done: Rounds, cpus: Mapping[str, float], size: Size) -> None:
    peer = torchft_peer.find()
    if peer is None or not can_use_namespaces():
        return
    spec = setup.spec(inner_steps=done.inner_steps)
    for fragments, delay in size.torchft:
        arguments = ["--fragments", str(fragments), "--delay", str(delay)]
        with TorchftPair(spec, cpus, peer=peer, arguments=arguments, link=done.link) as run:
            events = run.train_on(size.duration_s)
        arm = f"{peer.name} (fp32, {fragments} fragment(s), delay {delay})"
        done.joined[arm] = [_step_rate(events, run.bound_s, list(cpus))]


def _equivalent(count: int, done: Rounds) -> list[Result]:
    fp32_s = fp32_transfer_s(done.link)
    beside = {arm: done.ratio(arm) for arm in done.joined if arm not in CODECS}
    beside = {_shown(arm): ratio for arm, ratio in beside.items()}
    note = (
        f"{count} sites of {done.quota:g} cores, {done.link.bandwidth_bps / 1e6:.0f} Mbit/s and "
        f"{done.link.round_trip_s * 1e3:.0f} ms each, TLS; H = {done.inner_steps}: window {done.window_s:.2f}"
        f" s, fp32 both ways {fp32_s:.2f} s, {fp32_s / done.window_s:.2f} of it; tokens/s pushed and merged, "
        "from a site's second push to its last, over those of all sites alone at the same time "
        f"({median(done.alone):.0f}; one at a time {done.apart:.0f}); {len(done.alone)} round(s); "
        f"{_bound(done)}"
    )
    if count == 2 and torchft_peer.find() is None:
        note += f"; {torchft_peer.missing_note()}"
    return [
        Result(f"outer.equivalent_compute.{count}sites.{codec}", done.ratio(codec), "ratio", beside, note)
        for codec in CODECS
    ]


def _bound(done: Rounds) -> str:
    if not done.bound:
        return "without quotas"
    return f"the sites used up their quota in {min(done.bound):.0%} of the periods or more"


def _shown(arm: str) -> str:
    return "fp32, strict, delay 0" if arm == "fp32" else arm


def _bytes(codec: str, each: Sequence[measure.Traffic]) -> list[Result]:
    plain = 4 * count_params(setup.MODEL)
    pushes, versions = sum(t.pushes for t in each), sum(t.versions for t in each)
    up, down = sum(t.bytes_up for t in each), sum(t.bytes_down for t in each)
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
