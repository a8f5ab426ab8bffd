"""Batch, learning rate, precision and the balance of experts as Megatron-LM arguments."""

from collections.abc import Iterator

from isthmus.planner.layout import Layout
from isthmus.spec.balance import BalanceSpec
from isthmus.spec.run import RunSpec, TrainSpec

Option = tuple[str, ...]
"""('--num-layers', '24'), or a flag alone."""

_FORMATS: dict[str, list[Option]] = {
    "fp32": [],
    "fp16": [("--fp16",)],
    "bf16": [("--bf16",)],
    "fp8": [("--bf16",), ("--fp8-format", "hybrid")],
    "fp4": [("--bf16",), ("--fp4-format", "e2m1")],
}


def step_options(layout: Layout, run: RunSpec) -> list[Option]:
    train, iterations = run.train, max(1, run.train.tokens // layout.step_tokens)
    return [
        ("--micro-batch-size", str(layout.micro_batch)),
        ("--global-batch-size", str(layout.replica_batch * layout.dp)),
        ("--seq-length", str(layout.seq_len)),
        ("--train-iters", str(iterations)),
        *_optimizer_options(train),
        *_schedule_options(train, iterations),
        *(_balance_options(run) if run.model.num_experts else []),
        *_FORMATS[layout.precision],
    ]


def _optimizer_options(train: TrainSpec) -> list[Option]:
    beta1, beta2 = train.betas
    options: list[Option] = [("--adam-beta1", f"{beta1:g}"), ("--adam-beta2", f"{beta2:g}")]
    if train.optimizer == "sgd":
        options = [("--optimizer", "sgd"), ("--sgd-momentum", "0")]
    return [*options, ("--weight-decay", f"{train.weight_decay:g}"), ("--clip-grad", f"{train.grad_clip:g}")]


def _schedule_options(train: TrainSpec, iterations: int) -> list[Option]:
    options: list[Option] = [("--lr", f"{train.lr:g}"), ("--min-lr", f"{train.lr * train.min_lr_ratio:g}")]
    options.append(("--lr-decay-style", {"wsd": "WSD"}.get(train.schedule, train.schedule)))
    if train.schedule == "wsd":
        falling = str(max(1, round(train.decay * iterations)))
        options += [("--lr-wsd-decay-style", "linear"), ("--lr-wsd-decay-iters", falling)]
    return [*options, ("--lr-warmup-fraction", f"{train.warmup:g}")] if train.warmup else options


def _balance_options(run: RunSpec) -> list[Option]:
    """Megatron-LM's aux_loss is n sum_j f_j P_j as well, with f_j of the micro-batch; global_aux_loss has
    that of the batch."""
    balance = run.train.balance
    options: list[Option] = [("--moe-router-load-balancing-type", "none")]
    if balance.loss == "switch":
        kind = "aux_loss" if balance.scope == "micro" else "global_aux_loss"
        options = [("--moe-router-load-balancing-type", kind), ("--moe-aux-loss-coeff", f"{balance.coef:g}")]
    if balance.z_loss:
        options.append(("--moe-z-loss-coeff", f"{balance.z_loss:g}"))
    if run.model.router_bias:
        options.append(("--moe-router-bias-update-rate", f"{balance.bias_rate:g}"))
    if balance.capacity:
        policy = "probs" if balance.drop == "score" else "position"
        options.append(("--moe-expert-capacity-factor", f"{balance.capacity:g}"))
        options.append(("--moe-token-drop-policy", policy))
    return options


def training_losses(run: RunSpec) -> list[str]:
    """What of the training the arguments do not say, in words."""
    return list(_balance_losses(run.train.balance)) if run.model.num_experts else []


def _balance_losses(balance: BalanceSpec) -> Iterator[str]:
    if balance.loss == "skywork":
        yield "train.balance.loss: skywork (none is written; Megatron-LM has that of switch)"
    elif balance.loss == "switch" and balance.adaptive:
        yield "train.balance.adaptive (the coefficient stays as it is)"
