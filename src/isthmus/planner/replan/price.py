"""What an answer is worth: tokens by the horizon.

elastic: each group trains at its own rate, so only those that change stand still. strict, and a run of one
group: all step at the pace of the slowest, and a window of H steps is no shorter than the transfer that it
hides, so the pace is max(step, transfer / H); while one stands, all stand.
"""

from collections.abc import Mapping
from typing import NamedTuple

from isthmus.planner.link import payload_bytes, shared_link, transfer_s
from isthmus.planner.plan import Plan
from isthmus.planner.replan.option import SitePrice
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.run import RunSpec


class Loop(NamedTuple):
    """The outer loop as far as rates depend on it."""

    is_strict: bool
    inner_steps: int
    transfers: Mapping[str, float]
    """Seconds from a push to its result, by site."""
    step_tokens: int
    """Of a group."""


def loop_of(plan: Plan, fleet: FleetSpec, run: RunSpec) -> Loop:
    num_bytes = [
        payload_bytes(codec, plan.num_params, run.outer.block_size) for codec in (plan.codec, plan.down_codec)
    ]
    transfers = {site: transfer_s(shared_link(fleet, site), *num_bytes) for site in fleet.sites}
    step_tokens = plan.batch_size * run.data.seq_len
    return Loop(plan.mode == "strict", plan.inner_steps, transfers, step_tokens)


def rates(loop: Loop, step_s: Mapping[str, float]) -> dict[str, float]:
    """Tokens/s of each group that trains."""
    if not loop.is_strict or len(step_s) < 2:
        return {head: loop.step_tokens / seconds for head, seconds in step_s.items()}
    pace_s = max(max(step_s[head], loop.transfers.get(head, 0.0) / loop.inner_steps) for head in step_s)
    return dict.fromkeys(step_s, loop.step_tokens / pace_s)


class Span(NamedTuple):
    """Seconds from the event on."""

    horizon_s: float
    until_s: float
    """The event's state lasts so long, at most to the horizon."""


def price(
    loop: Loop,
    step_s: Mapping[str, float],
    stands_s: Mapping[str, float],
    later: Mapping[str, float],
    span: Span,
) -> list[SitePrice]:
    """`later`: tokens/s of each group once the event's state has ended."""
    now = rates(loop, step_s)
    if loop.is_strict:
        stands_s = dict.fromkeys(step_s, max(stands_s.values(), default=0.0))
    return [
        site_price(head, step_s[head], (now[head], later.get(head, now[head])), stands_s.get(head, 0.0), span)
        for head in sorted(step_s)
    ]


def site_price(
    head: str, step_s: float, tokens_per_s: tuple[float, float], stands_s: float, span: Span
) -> SitePrice:
    """`tokens_per_s`: now, and later."""
    now, later = tokens_per_s
    until_s, stands_s = min(span.until_s, span.horizon_s), min(stands_s, span.horizon_s)
    tokens = now * max(0.0, until_s - stands_s) + later * (span.horizon_s - max(until_s, stands_s))
    return SitePrice(
        site=head,
        step_s=step_s,
        tokens_per_s=now,
        stands_s=stands_s,
        until_s=until_s,
        later_tokens_per_s=later,
        tokens=tokens,
    )
