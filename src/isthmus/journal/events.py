"""Everything that can be said about a run. Frozen, typed, tagged by name; a reader folds them, nothing else."""

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """`wall_s` is stamped by the writer (Unix seconds), `source` names it ('server', 'site/jinan', 'rank/jinan/0')."""

    wall_s: float = 0.0
    source: str = ""


class RunStarted(Event):
    name: str
    sites: list[str]
    num_params: int
    token_budget: int
    code_version: str


class RunFinished(Event):
    reason: str
    """'budget', 'stopped' or 'failed: ...'"""
    tokens: int


class SiteJoined(Event):
    site: str
    incarnation: int
    version: int


class SiteLeft(Event):
    site: str
    reason: str


class StepDone(Event):
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


class EvalDone(Event):
    site: str
    step: int
    version: int
    loss: float
    tokens: int


class RangeLeased(Event):
    site: str
    start: int
    end: int


class RangeMerged(Event):
    site: str
    start: int
    end: int
    version: int


class RangeDiscarded(Event):
    site: str
    start: int
    end: int
    reason: str


class ContributionReceived(Event):
    site: str
    seq: int
    base_version: int
    tokens: int
    bytes_up: int
    norm: float


class VersionPublished(Event):
    version: int
    server_epoch: int
    sites: list[str]
    weights: list[float]
    tokens: int
    full_quorum: bool
    wait_s: float


class VersionApplied(Event):
    site: str
    version: int
    hash: str
    delay_steps: int
    bytes_down: int
    refresh: bool


class Quarantined(Event):
    site: str
    seq: int
    reason: str


class LinkSample(Event):
    site: str
    bytes_up: int
    bytes_down: int
    rtt_s: float
    up_bps: float
    down_bps: float
    resent_chunks: int
    connected: bool


class ServerStarted(Event):
    server_epoch: int
    version: int
    replayed: int
    address: str


class CheckpointSaved(Event):
    what: str
    version: int
    step: int
    path: str
    duration_s: float


class CheckpointFailed(Event):
    what: str
    reason: str


class Fault(Event):
    """Something went wrong. `subject`: the site, rank or link; `kind`: 'rank_died', 'link_down', 'disk_full', ..."""

    subject: str
    kind: str
    detail: str


class Recovered(Event):
    subject: str
    kind: str
    after_s: float


class Note(Event):
    """A line for people."""

    level: str
    text: str


AnyEvent = (
    RunStarted | RunFinished | SiteJoined | SiteLeft | StepDone | EvalDone
    | RangeLeased | RangeMerged | RangeDiscarded | ContributionReceived | VersionPublished | VersionApplied
    | Quarantined | LinkSample | ServerStarted | CheckpointSaved | CheckpointFailed | Fault | Recovered | Note
)  # fmt: skip
