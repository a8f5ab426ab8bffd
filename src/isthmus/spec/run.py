"""The job: which model learns from which data, by which schedule, and how the sites are joined."""

from typing import Literal

import msgspec

from isthmus.spec.balance import BalanceSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.ranges import AtLeast0, AtLeast1, NonNegative, Positive, Share, ShareBelow1
from isthmus.units import Count, Seconds

Codec = Literal["fp32", "bf16", "int8", "int4"]
CodecOrAuto = Literal["auto", "fp32", "bf16", "int8", "int4"]
USUAL_INNER_STEPS = 50
"""H where neither the run nor a plan says otherwise."""


class SourceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One source of text. Short form: its path alone."""

    path: str = "stdlib"
    """'stdlib' (this Python's own source and documentation), a file, a glob, or 'hf:<dataset>'."""
    weight: NonNegative = 1.0
    """How often this source is drawn from, relative to the others; 0: only where a later phase says so."""
    text_field: str = "text"
    """Column or key that holds the text in jsonl and parquet."""


class PhaseSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of the mixture on the way."""

    after: Count
    """Tokens of the run after which these weights hold."""
    weights: list[NonNegative]
    """One weight for each source, in their order."""


class DataSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model reads."""

    sources: list[SourceSpec] = msgspec.field(default_factory=lambda: [SourceSpec()])
    """Where the text comes from. Short form: one path, or a list of paths."""
    phases: list[PhaseSpec] = []
    """Later changes of the sources' weights; what comes before a change stays as it was."""
    tokenizer: str = "train"
    """'train' learns a byte-level BPE of `model.vocab_size` and caches it; or a path to tokenizer.json."""
    seq_len: AtLeast1 = 256
    """Tokens in one sequence, the unit that is sampled, leased and counted."""
    seed: AtLeast0 = 0
    """Seed of the global sample order."""
    held_out: ShareBelow1 = 0.01
    """Share of the documents kept for evaluation."""
    cache: str = "~/.cache/isthmus"
    """Where tokenizers and token shards are kept between runs."""


class TrainSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The inner training, alike at every site."""

    tokens: Count = Count(2_000_000)
    """Token budget of the whole run, over all sites."""
    batch_size: AtLeast1 = 16
    """Sequences in one inner step of one site (over all its ranks)."""
    micro_batch_size: AtLeast0 = 0
    """Sequences a rank runs at once; 0: the whole of its share."""
    lr: Positive = 1e-3
    """Highest learning rate of the inner optimizer."""
    min_lr_ratio: Share = 0.1
    """Learning rate at the end, relative to the highest."""
    warmup: Share = 0.02
    """Share of the budget over which the learning rate rises."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """How the learning rate falls after the warm-up; wsd: stable, then a decay at the end."""
    decay: Share = 0.2
    """wsd only: share of the budget over which it falls at the end."""
    betas: tuple[ShareBelow1, ShareBelow1] = (0.9, 0.95)
    """AdamW's decay of the first and second moment."""
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay of matrices; vectors such as norms have none."""
    grad_clip: NonNegative = 1.0
    """Largest norm of the whole gradient; 0: none."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Inner optimizer; its state stays at its site."""
    balance: BalanceSpec = BalanceSpec()
    """Mixture-of-Experts models: what keeps the experts evenly loaded."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Format of the matrix products; auto: the faster one, measured at the start."""
    seed: AtLeast0 = 0
    """Seed of the first weights."""
    init_from: str = ""
    """Model folder (of `isthmus import`, or a run's `final`) to start from; empty: new weights."""
    eval_every: Seconds = Seconds(30.0)
    """Time between evaluations on held-out text; 0: only at the end."""
    eval_sequences: AtLeast1 = 64
    """Held-out sequences in one evaluation."""
    checkpoint_every: Seconds = Seconds(60.0)
    """Time between checkpoints; 0: only at the end."""
    keep_checkpoints: AtLeast1 = 3
    """Newest checkpoints that are kept."""


class OuterSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the sites are joined to one model."""

    inner_steps: AtLeast0 = 0
    """H: inner steps between two pushes of the fastest site; 0: `isthmus plan` chooses it, 50 without."""
    mode: Literal["elastic", "strict"] = "elastic"
    """elastic: equal wall-clock windows, quorum and grace. strict: all sites, fixed H, bit-equal results."""
    quorum: AtLeast1 = 1
    """elastic only: contributions after which the grace period starts. Strict always waits for all."""
    delay: int = -1
    """Inner steps between a push and taking up its result; -1: elastic takes it when it is there, strict
    derives it once from the measured link."""
    lr: Positive = 0.7
    """Learning rate of the outer optimizer."""
    momentum: ShareBelow1 = 0.9
    """Nesterov momentum of the outer optimizer."""
    optimizer: Literal["nesterov", "sgd"] = "nesterov"
    """Outer optimizer, run by the server in fp32."""
    codec: CodecOrAuto = "auto"
    """Format of pseudo-gradients on the way up; auto: `isthmus plan` chooses it, int8 without."""
    down_codec: CodecOrAuto = "auto"
    """Format of parameter deltas on the way down; auto: as `codec`."""
    block_size: AtLeast1 = 128
    """Values that share one scale in int8 and int4."""
    fragments: AtLeast0 = 0
    """Parts the model is cut into for sending; 0: chosen from its size."""
    staleness_max: AtLeast0 = 4
    """A push based on a version older than this is discarded, and its samples are leased again."""
    outlier_factor: NonNegative = 10.0
    """A push whose norm exceeds this times the running median is quarantined; 0: never."""
    site_timeout: Seconds = Seconds(30.0)
    """Silence after which a site is given up and its leases go to others."""
    standby_timeout: Seconds = Seconds(10.0)
    """Silence after which a standby asks to take over, or the server to go on without its standby."""
    outage_reserve: Seconds = Seconds(60.0)
    """Leased work a site keeps in hand, so that it trains on while the server is away."""
    streams: AtLeast0 = 0
    """Parallel TCP streams of a site's link; 0: derived from its bandwidth and delay."""
    congestion: str = "bbr"
    """TCP congestion control asked for on each socket; ignored where the kernel lacks it."""
    snapshot_every: AtLeast1 = 20
    """Merges between two snapshots of the server."""


class ParallelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Degrees that are fixed by hand; 0 or auto leaves them to `isthmus plan`."""

    tp: AtLeast0 = 0
    """Tensor parallel degree."""
    cp: AtLeast0 = 0
    """Context parallel degree."""
    pp: AtLeast0 = 0
    """Pipeline stages."""
    virtual: AtLeast0 = 0
    """Model chunks per stage."""
    ep: AtLeast0 = 0
    """Expert parallel degree."""
    etp: AtLeast0 = 0
    """Tensor parallel degree inside experts."""
    recompute: Literal["auto", "none", "selective", "full"] = "auto"
    """Activations that backward computes again."""
    sharding: Literal["auto", "none", "optimizer", "full"] = "auto"
    """What the replicas share out instead of each keeping all of it: ZeRO 0, 1 or 3."""


class GoalSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `isthmus plan` looks for, and the limits it keeps."""

    best: Literal["tokens_per_s", "time", "cost", "chips"] = "tokens_per_s"
    """Most tokens/s; least time to the budget; least cost of it; fewest chips that keep the deadline."""
    deadline: Seconds = Seconds(0.0)
    """The budget must be trained by then; 0: no limit."""
    max_cost: NonNegative = 0.0
    """Of the whole run, in the currency of the nodes' prices; 0: no limit."""
    headroom: ShareBelow1 = 0.08
    """Part of each chip's memory that is left free."""
    max_chips: AtLeast0 = 0
    """Chips used at most; 0: no limit."""
    sites: list[str] = []
    """Sites that may be used; empty: all."""


class AlertSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told when something goes wrong."""

    webhook: str = ""
    """URL that gets a JSON POST for each alert; empty: none."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of run.yaml."""

    name: str = "run"
    """Names the run in reports and its folder."""
    model: ModelSpec = ModelSpec()
    """What learns: a preset's name, or a mapping."""
    data: DataSpec = DataSpec()
    """What it reads."""
    train: TrainSpec = TrainSpec()
    """How each site trains."""
    outer: OuterSpec = OuterSpec()
    """How the sites are joined."""
    parallel: ParallelSpec = ParallelSpec()
    """How the model is cut inside a site."""
    goal: GoalSpec = GoalSpec()
    """What a plan should be best at."""
    alerts: AlertSpec = AlertSpec()
    """Who is told of trouble."""
