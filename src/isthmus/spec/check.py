"""What no single field can say: values that are impossible together, each with its key and a remedy."""

import re
from collections.abc import Iterator

from isthmus.spec.balance import BalanceSpec
from isthmus.spec.build import Problem
from isthmus.spec.document import dotted
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import USUAL_INNER_STEPS, DataSpec, OuterSpec, RunSpec
from isthmus.spec.suggest import nearest

NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
"""Fit for file names, certificate names and host names."""
ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:]+):(\d{1,5})")
MIN_BPE_VOCAB = 272
"""256 bytes, the special tokens and a first few merges."""

Rule = tuple[bool, str, str, str]
"""(fine, dotted key, what is wrong otherwise, remedy)"""


def check_fleet(fleet: FleetSpec) -> Iterator[Problem]:
    server = fleet.server
    yield from _broken(
        (
            bool(fleet.sites),
            "sites",
            "no sites",
            "give at least one, or leave `sites` out for one local site",
        ),
        (_is_address(server.bind), "server.bind", f"'{server.bind}' is not host:port", "write 0.0.0.0:7000"),
        (
            not server.standby or _is_address(server.standby),
            "server.standby",
            f"'{server.standby}' is not host:port",
            "write for example 10.0.0.2:7000",
        ),
    )
    for name, site in fleet.sites.items():
        yield from _check_site(name, site.num_ranks, site.link.bandwidth)
    for name, trunk in fleet.trunks.items():
        key = ("trunks", name)
        for site in trunk.sites:
            if site not in fleet.sites:
                hint = nearest(site, fleet.sites) or f"the sites are {', '.join(fleet.sites)}"
                yield Problem(
                    (*key, "sites"), f"trunk '{name}' leads to site '{site}', which is not there", hint
                )
        if trunk.bandwidth <= 0:
            hint = "write what the line carries, for example '10 Gbps'"
            yield Problem((*key, "bandwidth"), f"trunk '{name}' carries nothing", hint)


def _check_site(name: str, num_ranks: int, bandwidth: float) -> Iterator[Problem]:
    """Site names may hold dots when wrong, so their keys are not written dotted."""
    key = ("sites", name)
    if name in ("server", "standby"):
        yield Problem(key, f"a site cannot be called '{name}'", "that certificate is the server's own")
    if not NAME.fullmatch(name):
        hint = "use lower-case letters, digits, '-' and '_' (it names files and certificates)"
        yield Problem(key, f"site name '{name}' is not usable", hint)
    if num_ranks == 0:
        yield Problem((*key, "nodes"), f"site '{name}' has no chips", "write for example chips: {cpu: 1}")
    if bandwidth <= 0:
        hint = "write what the link carries, for example '100 Mbps'"
        yield Problem((*key, "link", "bandwidth"), f"the link of site '{name}' carries nothing", hint)


def check_run(run: RunSpec) -> Iterator[Problem]:
    data, train = run.data, run.train
    step_tokens = train.batch_size * data.seq_len
    webhook = run.alerts.webhook
    yield from _check_model(run.model)
    yield from _check_balance(run.model, train.balance)
    yield from _check_mixture(data)
    yield from _broken(
        (bool(NAME.fullmatch(run.name)), "name", f"'{run.name}' is not usable as a folder's name",
         "use lower-case letters, digits, '-' and '_'"),
        (bool(data.sources), "data.sources", "no sources", "leave it out for the default, 'stdlib'"),
        (data.seq_len <= run.model.max_seq_len, "data.seq_len",
         f"{data.seq_len} tokens exceed the model's max_seq_len {run.model.max_seq_len}",
         "shorten data.seq_len or raise model.max_seq_len"),
        (data.tokenizer != "train" or run.model.vocab_size >= MIN_BPE_VOCAB, "model.vocab_size",
         f"a byte-level tokenizer does not fit into {run.model.vocab_size} tokens",
         f"use {MIN_BPE_VOCAB} or more, or name a data.tokenizer"),
        (train.tokens >= step_tokens, "train.tokens",
         f"{train.tokens} tokens are less than one step of {train.batch_size} x {data.seq_len}",
         "raise train.tokens or lower train.batch_size"),
        (train.batch_size % max(1, train.micro_batch_size) == 0, "train.micro_batch_size",
         f"{train.micro_batch_size} does not divide batch_size {train.batch_size}", "choose a divisor, or 0"),
        (train.schedule != "wsd" or train.warmup + train.decay <= 1, "train.decay",
         f"warm-up {train.warmup} and decay {train.decay} exceed the budget", "lower one of them"),
        (not webhook or re.match(r"https?://[^/\s]+", webhook) is not None, "alerts.webhook",
         f"'{webhook}' is not a URL", "write https://..."),
    )  # fmt: skip
    yield from _check_outer(run.outer)


def _check_mixture(data: DataSpec) -> Iterator[Problem]:
    """The sources' weights, and those of each phase."""
    if data.sources and not any(source.weight for source in data.sources):
        yield Problem(("data", "sources"), "data.sources: all weights are 0", "leave one above 0")
    before = 0
    for index, phase in enumerate(data.phases):
        key = ("data", "phases", index)
        if len(phase.weights) != len(data.sources):
            message = f"{dotted(key)}: {len(phase.weights)} weights for {len(data.sources)} sources"
            yield Problem((*key, "weights"), message, "give one for each source, in their order")
        elif not any(phase.weights):
            yield Problem((*key, "weights"), f"{dotted(key)}: all weights are 0", "leave one above 0")
        if phase.after <= before:
            message = f"{dotted(key)}: {phase.after} tokens are not after the {before} before it"
            yield Problem((*key, "after"), message, "list phases in the order of their tokens")
        before = phase.after


def _check_model(model: ModelSpec) -> Iterator[Problem]:
    is_moe = model.num_experts > 0
    yield from _broken(
        (model.num_heads % model.num_kv_heads == 0, "model.num_kv_heads",
         f"{model.num_heads} heads cannot share {model.num_kv_heads} key-value heads evenly",
         f"choose one of {_divisors(model.num_heads)}"),
        (model.head_dim % 2 == 0, "model.head_dim", f"{model.head_dim} is odd; rotary embedding turns pairs",
         f"use {model.head_dim + 1}"),
        (not is_moe or model.top_k <= model.num_experts, "model.top_k",
         f"{model.top_k} of {model.num_experts} experts cannot be chosen", f"at most {model.num_experts}"),
        (not is_moe or model.first_moe_layer < model.num_layers, "model.first_moe_layer",
         f"no layer is MoE: the first would be {model.first_moe_layer} of {model.num_layers}",
         "lower it, or set num_experts to 0"),
        (all(layer < model.num_layers for layer in model.dense_layers), "model.dense_layers",
         f"the model has {model.num_layers} layers, counted from 0", "leave the others out"),
        (not is_moe or bool(model.moe_layers) or model.first_moe_layer >= model.num_layers,
         "model.dense_layers", "no layer is left to be MoE", "shorten it, or set num_experts to 0"),
    )  # fmt: skip


def _check_balance(model: ModelSpec, balance: BalanceSpec) -> Iterator[Problem]:
    yield from _broken(
        (not balance.bias_rate or model.router_bias, "train.balance.bias_rate",
         "the router has no bias to move", "set model.router_bias to true, or this to 0"),
        (balance.scope == "micro" or balance.loss == "switch", "train.balance.scope",
         f"the loss '{balance.loss}' has no scope", "leave it out, or set loss to switch"),
        (not balance.adaptive or balance.loss != "none", "train.balance.adaptive",
         "there is no loss whose weight could follow the drop rate", "set loss to skywork"),
    )  # fmt: skip


def _check_outer(outer: OuterSpec) -> Iterator[Problem]:
    is_strict, inner_steps = outer.mode == "strict", outer.inner_steps or USUAL_INNER_STEPS
    yield from _broken(
        (outer.delay >= -1, "outer.delay", f"{outer.delay} is no number of steps", "-1 has it derived"),
        (outer.delay <= inner_steps, "outer.delay",
         f"a delay of {outer.delay} is longer than the {inner_steps} steps between two pushes",
         "at most outer.inner_steps; -1 has it derived"),
        (is_strict or outer.delay <= 0, "outer.delay",
         "elastic mode takes a result up when it is there, not at a fixed step",
         "use -1, or set outer.mode to strict"),
        (not is_strict or outer.quorum == 1, "outer.quorum",
         "strict mode waits for all sites", "leave it out, or set outer.mode to elastic"),
        (outer.block_size % 2 == 0, "outer.block_size",
         f"{outer.block_size} is odd; int4 packs pairs", "use 128"),
        (outer.outlier_factor == 0 or outer.outlier_factor > 1, "outer.outlier_factor",
         f"{outer.outlier_factor} would quarantine ordinary pushes", "use more than 1, or 0 for never"),
        (outer.site_timeout > 0, "outer.site_timeout", "no site could ever answer in time", "write 30 s"),
        (outer.streams <= 64, "outer.streams", f"{outer.streams} are more than a link needs", "use 0"),
    )  # fmt: skip


def _broken(*rules: Rule) -> Iterator[Problem]:
    for fine, key, message, hint in rules:
        if not fine:
            yield Problem(tuple(key.split(".")), f"{key}: {message}", hint)


def _is_address(text: str) -> bool:
    match = ADDRESS.fullmatch(text)
    return match is not None and int(match[2]) < 65_536


def _divisors(number: int) -> str:
    return ", ".join(str(each) for each in range(1, number + 1) if number % each == 0)
