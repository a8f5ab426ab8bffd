"""How much of the time and of the tokens counted in the end: ETTR and goodput.

The effective training time ratio is that of arXiv 2410.21680: productive time over wall time. Productive is
the time in steps that counted. Not productive, each in a part of its own of `TimeSpent`:

- repeated steps: those done again after a heal, whose number had been told before;
- outages: from the moment a fault began until the site trained again, also where a step reaches across it;
- waiting for the server, inside the steps;
- all time between steps: starting, evaluations, and what no agent healed (a site that is down, or was started
  again by its launcher).

The pause that a checkpoint costs (the state is copied, and written beside the training) lies in a step, and
counts as productive; goodput tells it, since that step's rate is lower. Samples that were trained and then
discarded count here, for the site did its part; goodput of the whole run leaves them out.
"""

import msgspec

from isthmus.journal.alerts import CLEAN_LEAVES
from isthmus.journal.view import RunView, SiteView

STALLED_S = 5.0
"""Silence that begins to count against a site, or three of its steps where that is longer."""


class TimeSpent(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of a site since its first step began, or of all sites added up; the parts make up `wall_s`."""

    wall_s: float = 0.0
    effective_s: float = 0.0
    repeated_s: float = 0.0
    outage_s: float = 0.0
    waiting_s: float = 0.0
    between_s: float = 0.0
    """Not in a step, for another reason than an outage that was healed."""

    @property
    def ettr(self) -> float | None:
        """In [0, 1]; None before the first step."""
        return min(1.0, self.effective_s / self.wall_s) if self.wall_s > 0 else None


def time_spent(view: RunView, site: SiteView, now_s: float) -> TimeSpent:
    """Args: now_s: Unix time; of a finished run the end of the last step of any site counts instead."""
    if not site.steps + site.repeated_steps:
        return TimeSpent()
    last_s = max(of.last_s for of in view.sites.values()) if view.finished else now_s
    has_left = bool(site.left) and site.left in CLEAN_LEAVES
    wall_s = max(0.0, (site.last_s if has_left else heard_until_s(site, last_s)) - site.first_s)
    parts_s = site.compute_s + site.repeated_s + site.outage_s + site.wait_s
    return TimeSpent(
        wall_s=max(wall_s, parts_s),
        effective_s=site.compute_s,
        repeated_s=site.repeated_s,
        outage_s=site.outage_s,
        waiting_s=site.wait_s,
        between_s=max(0.0, wall_s - parts_s) if wall_s - parts_s > 1e-6 * wall_s else 0.0,
    )


def together(spent: list[TimeSpent]) -> TimeSpent:
    names = TimeSpent.__struct_fields__
    return TimeSpent(**{name: sum(getattr(of, name) for of in spent) for name in names})


def heard_until_s(site: SiteView, now_s: float) -> float:
    """The end of its last step, or now if it has been silent for longer than its steps take."""
    slowest_s = max((step_s for _, _, step_s, _ in site.recent), default=0.0)
    return site.last_s if now_s - site.last_s <= max(3 * slowest_s, STALLED_S) else now_s


def site_goodput(site: SiteView, spent: TimeSpent) -> float | None:
    """Tokens that counted per second of wall time, over the median rate of its undisturbed steps."""
    typical = site.rates.median()
    return site.tokens / spent.wall_s / typical if typical and spent.wall_s else None


def run_goodput(view: RunView, tokens_per_s: float) -> float | None:
    """The run's tokens per second over the sum of the sites' median undisturbed rates."""
    typical = sum(site.rates.median() for site in view.sites.values())
    return tokens_per_s / typical if typical and tokens_per_s else None
