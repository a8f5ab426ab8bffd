"""The job: which model learns from which data, by which schedule, and how the sites are joined."""

from typing import Literal

import msgspec

from isthmus.spec.model import ModelSpec
from isthmus.units import Count, Seconds


class SourceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: str = "stdlib"
    """'stdlib' (this Python's own source and documentation), a file, a glob, or 'hf:<dataset>'."""
    weight: float = 1.0
    text_field: str = "text"
    """Column or key that holds the text in jsonl and parquet."""


class DataSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sources: list[SourceSpec] = [SourceSpec()]
    tokenizer: str = "train"
    """'train' learns a byte-level BPE of `model.vocab_size` and caches it; else a path to tokenizer.json."""
    seq_len: int = 256
    seed: int = 0
    held_out: float = 0.01
    """Share of the documents kept for evaluation."""
    cache: str = "~/.cache/isthmus"


class TrainSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tokens: Count = Count(2_000_000)
    """Token budget of the whole run, over all sites."""
    batch_size: int = 16
    """Sequences in one inner step of one site (over all its ranks)."""
    micro_batch_size: int = 0
    """Sequences a rank runs at once; 0: the whole of its share."""
    lr: float = 1e-3
    min_lr_ratio: float = 0.1
    warmup: float = 0.02
    """Share of the budget over which the learning rate rises."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    decay: float = 0.2
    """wsd only: share of the budget over which it falls at the end."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    """Largest norm of the whole gradient; 0: none."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 0
    eval_every: Seconds = Seconds(30.0)
    eval_sequences: int = 64
    checkpoint_every: Seconds = Seconds(60.0)
    keep_checkpoints: int = 3


class OuterSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    inner_steps: int = 50
    """H: inner steps between two pushes of the fastest site."""
    mode: Literal["elastic", "strict"] = "elastic"
    """elastic: equal wall-clock windows, quorum and grace. strict: all sites, fixed H, bit-equal results."""
    quorum: int = 1
    """elastic only: contributions after which the grace period starts. Strict always waits for all."""
    delay: int = -1
    """Inner steps between a push and taking up its result; -1: elastic takes it when it is there, strict
    derives it once from the measured link."""
    lr: float = 0.7
    momentum: float = 0.9
    optimizer: Literal["nesterov", "sgd"] = "nesterov"
    codec: Literal["fp32", "bf16", "int8", "int4"] = "int8"
    """Format of pseudo-gradients on the way up."""
    down_codec: Literal["fp32", "bf16", "int8", "int4"] = "int8"
    """Format of parameter deltas on the way down."""
    block_size: int = 128
    fragments: int = 0
    """0: chosen from the model's size."""
    staleness_max: int = 4
    outlier_factor: float = 10.0
    """A push whose norm exceeds this times the running median is quarantined; 0: never."""
    site_timeout: Seconds = Seconds(30.0)
    """Silence after which a site is given up and its leases go to others."""
    outage_reserve: Seconds = Seconds(60.0)
    """Leased work a site keeps in hand, so that it trains on while the server is away."""
    streams: int = 0
    """Parallel TCP streams of a site's link; 0: derived from its bandwidth and delay."""
    congestion: str = "bbr"
    """TCP congestion control asked for on each socket; ignored where the kernel lacks it."""
    snapshot_every: int = 20
    """Merges between two snapshots of the server."""


class AlertSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    webhook: str = ""
    """URL that gets a JSON POST for each alert; empty: none."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str = "run"
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    train: TrainSpec = TrainSpec()
    outer: OuterSpec = OuterSpec()
    alerts: AlertSpec = AlertSpec()
