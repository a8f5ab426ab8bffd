"""What a journal says about a run, folded: bounded in size however long the run is. `fold` makes it."""

from typing import Any

import msgspec
from msgspec.structs import replace

from isthmus.journal.alerts import Alert
from isthmus.journal.curve import Curve
from isthmus.journal.experts import Experts
from isthmus.journal.incidents import Incident, Tally
from isthmus.journal.rates import Rates

KEPT = 200
"""Latest merges, spans, incidents and alerts kept."""
RECENT_STEPS = 20
RECENT_OUTAGES = 8


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Time in which `lane` (a site, or 'server') was in trouble; `end_s` is None until it ends."""

    lane: str
    subject: str
    kind: str
    detail: str
    start_s: float
    end_s: float | None = None


class Merge(msgspec.Struct, frozen=True, kw_only=True):
    wall_s: float
    version: int
    sites: tuple[str, ...]
    tokens: int
    full_quorum: bool
    wait_s: float


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """One life of the server."""

    wall_s: float
    server_epoch: int
    version: int
    replayed: int


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    wall_s: float
    what: str
    version: int
    step: int
    path: str
    duration_s: float


class Counted(msgspec.Struct, frozen=True):
    """What a client's counters for one server said last; they start at 0 again with the client."""

    bytes_up: int = 0
    bytes_down: int = 0
    connected: bool = True


class LinkView(msgspec.Struct, frozen=True, kw_only=True):
    """A site's link to its servers. Bytes are as the transport counts them, over all lives of the client."""

    bytes_up: int = 0
    bytes_down: int = 0
    counted: dict[str, Counted] = {}
    """By server."""
    rtt_s: float = 0.0
    up_bps: float = 0.0
    down_bps: float = 0.0
    resent_chunks: int = 0
    connected: bool = True
    """To any server."""
    curve: Curve = Curve()
    """(wall_s, bytes_up, bytes_down, rtt_s)"""


class SiteView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    present: bool = False
    left: str = ""
    """Why it left, while it is away."""
    joins: int = 0
    incarnation: int = 0
    steps: int = 0
    tokens: int = 0
    """Trained here, whatever became of them; without those of repeated steps."""
    compute_s: float = 0.0
    """Time in the steps that counted, without waiting and outages."""
    wait_s: float = 0.0
    minded: bool = False
    """An agent keeps its ranks alive: steps that are told again were done again."""
    top_step: int = 0
    """The highest number of a step since the run was started or resumed."""
    repeated_steps: int = 0
    """Steps with a number that had been told before: done again after a heal, not counted in `tokens`."""
    repeated_tokens: int = 0
    repeated_s: float = 0.0
    """Time in them, without waiting and outages."""
    outage_s: float = 0.0
    """From the beginning of a fault until the site trained again, summed over its heals; no time twice."""
    outages: tuple[tuple[float, float], ...] = ()
    """The last of them: (began_s, resumed_s), not overlapping."""
    rates: Rates = Rates()
    """Tokens/s in the steps that counted and no outage touched, without waiting."""
    tally: Tally = Tally()
    """Of its incidents."""
    first_s: float = 0.0
    """When its first step began."""
    last_s: float = 0.0
    loss: float = float("nan")
    held_out_loss: float = float("nan")
    lr: float = 0.0
    grad_norm: float = 0.0
    version: int = 0
    refreshes: int = 0
    delay_steps: int = 0
    pushes: int = 0
    merged: int = 0
    """Pushes that went into a version."""
    quarantined: int = 0
    payload_up: int = 0
    """Bytes of pushes and versions alone, without framing."""
    payload_down: int = 0
    curve: Curve = Curve()
    """(wall_s, tokens, loss, wait_s), tokens and wait_s summed from the start."""
    held_out: Curve = Curve()
    """(wall_s, tokens, loss, version), tokens of this site"""
    recent: tuple[tuple[float, float, float, float], ...] = ()
    """(wall_s, tokens, step_s, wait_s) of the last steps; no tokens in those that were repeated."""
    link: LinkView = LinkView()
    experts: Experts = Experts()


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    name: str = ""
    num_params: int = 0
    token_budget: int = 0
    seq_len: int = 0
    code_version: str = ""
    starts: int = 0
    """Times the run was started; more than 1 if it was resumed."""
    started_s: float = 0.0
    last_s: float = 0.0
    finished: str = ""
    """Why it ended; empty while it runs."""
    sites: dict[str, SiteView] = {}
    version: int = 0
    merges: tuple[Merge, ...] = ()
    num_merges: int = 0
    full_merges: int = 0
    merged_tokens: int = 0
    merge_wait_s: float = 0.0
    leased_samples: int = 0
    merged_samples: int = 0
    discarded_samples: dict[str, int] = {}
    """By reason. They are leased again, save those given up as poisoned."""
    epochs: tuple[Epoch, ...] = ()
    server_s: float = 0.0
    """When the server was last heard."""
    checkpoints: dict[str, Checkpoint] = {}
    """The last one of each kind."""
    num_checkpoints: int = 0
    failed_checkpoints: int = 0
    spans: tuple[Span, ...] = ()
    incidents: tuple[Incident, ...] = ()
    """The last ones, by the time they were told of; open ones are kept longest."""
    tally: Tally = Tally()
    """Of all incidents."""
    alerts: tuple[Alert, ...] = ()
    dropped_events: int = 0
    num_events: int = 0


def site_of(view: RunView, name: str) -> SiteView:
    """The site of that name; an empty one if it was not heard of yet."""
    return view.sites.get(name) or SiteView(name=name)


def with_site(view: RunView, name: str, **changes: Any) -> RunView:
    return replace(view, sites={**view.sites, name: replace(site_of(view, name), **changes)})
