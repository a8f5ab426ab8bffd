"""A site's steps and the outages between them: which counted, which were done again, what they took."""

from msgspec.structs import replace

from isthmus.journal import events
from isthmus.journal.view import RECENT_OUTAGES, RECENT_STEPS, SiteView

Stretch = tuple[float, float]
"""(start, end), Unix seconds"""


def after_step(site: SiteView, event: events.StepDone) -> SiteView:
    """A step whose number was told before is a repeated one: it costs time, but brings no tokens."""
    repeated = site.minded and event.step <= site.top_step
    counted = 0 if repeated else event.tokens
    tokens, wait_s = site.tokens + counted, site.wait_s + event.wait_s
    down_s = sum(_shared_s((event.wall_s - event.step_s, event.wall_s), outage) for outage in site.outages)
    busy_s = max(0.0, event.step_s - event.wait_s - down_s)
    undisturbed = not repeated and not down_s and busy_s
    return replace(
        site,
        steps=site.steps + event.steps * (not repeated),
        tokens=tokens,
        compute_s=site.compute_s + busy_s * (not repeated),
        wait_s=wait_s,
        top_step=max(site.top_step, event.step),
        repeated_steps=site.repeated_steps + event.steps * repeated,
        repeated_tokens=site.repeated_tokens + event.tokens - counted,
        repeated_s=site.repeated_s + busy_s * repeated,
        rates=site.rates.add(event.tokens / busy_s) if undisturbed else site.rates,
        first_s=site.first_s or event.wall_s - event.step_s,
        last_s=event.wall_s,
        loss=event.loss,
        lr=event.lr,
        grad_norm=event.grad_norm,
        version=max(site.version, event.version),
        curve=site.curve.add(event.wall_s, float(tokens), event.loss, wait_s),
        recent=(*site.recent, (event.wall_s, float(counted), event.step_s, event.wait_s))[-RECENT_STEPS:],
    )


def after_outage(site: SiteView, outage: Stretch) -> SiteView:
    """The outage is taken out of the steps it reaches into: it may be told after the first step since."""
    start_s, end_s = max(outage[0], site.outages[-1][1] if site.outages else 0.0), outage[1]
    if start_s >= end_s:
        return site
    hidden = {True: 0.0, False: 0.0}
    for wall_s, tokens, step_s, wait_s in site.recent:
        shared_s = _shared_s((wall_s - step_s, wall_s), (start_s, end_s))
        hidden[not tokens] += min(shared_s, max(0.0, step_s - wait_s))
    return replace(
        site,
        outage_s=site.outage_s + end_s - start_s,
        outages=(*site.outages, (start_s, end_s))[-RECENT_OUTAGES:],
        compute_s=max(0.0, site.compute_s - hidden[False]),
        repeated_s=max(0.0, site.repeated_s - hidden[True]),
    )


def _shared_s(first: Stretch, second: Stretch) -> float:
    """Seconds that lie in both."""
    return max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
