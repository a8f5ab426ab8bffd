"""Everything that can be said about a run: frozen, typed, tagged by name. Readers fold these, no more."""

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """`wall_s` (Unix seconds) and `source` ('server', 'site/jinan', 'rank/jinan/0') come from the writer."""

    wall_s: float = 0.0
    source: str = ""


class RunStarted(Event, frozen=True, kw_only=True):
    name: str
    sites: list[str]
    num_params: int
    token_budget: int
    code_version: str
    seq_len: int = 0
    """Tokens in one sample, so that ranges of samples can be counted in tokens; 0: unknown."""


class RunFinished(Event, frozen=True, kw_only=True):
    reason: str
    """'budget', 'stopped' or 'failed: ...'"""
    tokens: int


class SiteJoined(Event, frozen=True, kw_only=True):
    site: str
    incarnation: int
    version: int


class SiteLeft(Event, frozen=True, kw_only=True):
    site: str
    reason: str


class StepDone(Event, frozen=True, kw_only=True):
    site: str
    step: int
    tokens: int
    loss: float
    lr: float
    grad_norm: float
    step_s: float
    wait_s: float
    """Time in this step spent waiting for the parameter server (leases or versions)."""
    version: int
    steps: int = 1
    """That it tells of: this one, and those since the one that was told before."""


class EvalDone(Event, frozen=True, kw_only=True):
    site: str
    step: int
    version: int
    loss: float
    tokens: int


class ExpertsCounted(Event, frozen=True, kw_only=True):
    """What a site's routers did since the last such event. Lists go by MoE layer, inner ones by expert."""

    site: str
    step: int
    """The last of the `steps` it covers."""
    steps: int
    layers: list[int]
    """The MoE layers' places in the model."""
    load: list[list[int]]
    """Choices that fell on each expert, dropped ones included."""
    dropped: list[list[int]]
    """Of them, those above the capacity; in a dropless run above the nominal one, where none is dropped."""
    entropy: list[float]
    """Mean entropy of the gate's probabilities, nats."""
    coef: list[float]
    """Weight of the balance loss."""
    similarity: list[float]
    """Mean cosine of the experts' weights over all pairs; empty where it was not measured (it is at
    evaluations)."""


class RangeLeased(Event, frozen=True, kw_only=True):
    site: str
    start: int
    end: int


class RangeMerged(Event, frozen=True, kw_only=True):
    site: str
    start: int
    end: int
    version: int


class RangeDiscarded(Event, frozen=True, kw_only=True):
    site: str
    start: int
    end: int
    reason: str


class ContributionReceived(Event, frozen=True, kw_only=True):
    site: str
    seq: int
    base_version: int
    tokens: int
    bytes_up: int
    norm: float


class VersionPublished(Event, frozen=True, kw_only=True):
    version: int
    server_epoch: int
    sites: list[str]
    weights: list[float]
    tokens: int
    full_quorum: bool
    wait_s: float


class VersionApplied(Event, frozen=True, kw_only=True):
    site: str
    version: int
    hash: str
    delay_steps: int
    bytes_down: int
    refresh: bool


class Quarantined(Event, frozen=True, kw_only=True):
    site: str
    seq: int
    reason: str


class LinkSample(Event, frozen=True, kw_only=True):
    site: str
    bytes_up: int
    bytes_down: int
    rtt_s: float
    up_bps: float
    down_bps: float
    resent_chunks: int
    connected: bool
    server: str = ""
    """Which server, where there is a standby as well: each connection counts its own bytes."""


class ServerStarted(Event, frozen=True, kw_only=True):
    server_epoch: int
    version: int
    replayed: int
    address: str


class CheckpointSaved(Event, frozen=True, kw_only=True):
    what: str
    version: int
    step: int
    path: str
    duration_s: float


class CheckpointFailed(Event, frozen=True, kw_only=True):
    what: str
    reason: str


class Fault(Event, frozen=True, kw_only=True):
    """Trouble with `subject` (a site, rank or link); `kind`: 'rank_died', 'link_down', 'disk_full', ..."""

    subject: str
    kind: str
    detail: str
    began_s: float = 0.0
    """Unix time at which it began, as far as can be told; 0: when it was seen."""


class Diagnosed(Event, frozen=True, kw_only=True):
    """Which fault it was, by the catalogue and what the ranks' pages, logs and stacks showed."""

    subject: str
    """'rank-jinan-2'; the site where no rank is named."""
    fault_class: str
    entry: str
    action: str
    confidence: float
    cause: str
    verify: str
    evidence: list[str]
    victims: list[str] = []


class Healed(Event, frozen=True, kw_only=True):
    """A site trains again. Times are Unix seconds."""

    site: str
    subjects: list[str]
    """What was replaced: 'rank-jinan-2'; empty where the group alone was made anew."""
    kind: str
    """What was done, of the ladder: 'retry', 'restart_rank', 'replace_node', 'rollback', 'shrink', 'grow'."""
    generation: int
    step: int
    """Optimizer steps done when it went on."""
    lost_steps: int
    """Steps that were done a second time."""
    began_s: float
    detected_s: float
    diagnosed_s: float
    regrouped_s: float
    resumed_s: float


class Recovered(Event, frozen=True, kw_only=True):
    subject: str
    kind: str
    after_s: float


class EventsDropped(Event, frozen=True, kw_only=True):
    """The journal itself lost `count` events of this source, because the disk refused them for too long."""

    count: int
    reason: str


class Note(Event, frozen=True, kw_only=True):
    """A line for people."""

    level: str
    text: str


AnyEvent = (
    RunStarted | RunFinished | SiteJoined | SiteLeft | StepDone | EvalDone
    | ExpertsCounted
    | RangeLeased | RangeMerged | RangeDiscarded | ContributionReceived | VersionPublished | VersionApplied
    | Quarantined | LinkSample | ServerStarted | CheckpointSaved | CheckpointFailed | Fault | Recovered
    | Diagnosed | Healed | EventsDropped | Note
)  # fmt: skip
