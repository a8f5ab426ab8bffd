"""What a replan answers: the options with their prices, and the plan that was chosen."""

import msgspec

from isthmus.planner.plan import Plan
from isthmus.planner.replan.event import Event


class SitePrice(msgspec.Struct, frozen=True, kw_only=True):
    """What one site, or one pipeline over several, trains by the horizon.

    tokens = tokens_per_s max(0, until - stands) + later_tokens_per_s (horizon - max(until, stands))
    """

    site: str
    step_s: float
    tokens_per_s: float
    """While it trains."""
    stands_s: float
    """From the event until it trains (again): detection, restart, moving, reading; or waiting for a node."""
    until_s: float
    """So long the event's state lasts, at most to the horizon."""
    later_tokens_per_s: float
    """After that."""
    tokens: float


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to the event. An option that cannot be has `why` and no tokens."""

    name: str
    chosen: bool = False
    step_s: float | None = None
    """As `Expected.step_s`: averaged over the sites that train."""
    tokens_per_s: float = 0.0
    """Of the whole fleet, once all that can train do."""
    move_bytes: float = 0.0
    move_s: float = 0.0
    restart_s: float = 0.0
    """Longest time that a site stands, moving included."""
    tokens: float = 0.0
    """By the horizon."""
    gained_tokens: float = 0.0
    """Against doing nothing."""
    sites: list[SitePrice] = []
    why: str = ""
    """What it does, or why it cannot be."""


class Replan(msgspec.Struct, frozen=True, kw_only=True):
    """JSON by msgspec."""

    events: list[Event]
    horizon_s: float
    options: list[Option]
    """From the least change to the largest."""
    plan: Plan
    """Of the chosen option; the running one where nothing is done."""

    @property
    def chosen(self) -> Option:
        return next(option for option in self.options if option.chosen)
