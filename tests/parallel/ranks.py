"""Scenarios over forked ranks. test_data_parallel.py runs them in a process of its own, without threads."""

import json
import sys
import traceback

import msgspec
import torch

from isthmus.comm.collective import Collective
from isthmus.comm.local import run_ranks
from isthmus.models.balance import Balance
from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer
from isthmus.parallel.data_parallel import DataParallel
from isthmus.spec.balance import BalanceSpec
from isthmus.spec.model import ModelSpec

SEED = 7
SPEC = ModelSpec(
    vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_size=48,
    num_experts=4, top_k=2, first_moe_layer=1,
)  # fmt: skip


def build(**changes) -> Transformer:
    model = Transformer(msgspec.structs.replace(SPEC, **changes))
    init_weights(model, SEED)
    return model


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Micro-batches with unlike numbers of targets that count."""
    draws = torch.Generator().manual_seed(SEED)
    out = []
    for index in range(count):
        tokens = torch.randint(0, 64, (3, 17), generator=draws)
        targets = tokens[:, 1:].clone()
        targets[:, : 3 * index] = -100
        out.append((tokens[:, :-1], targets))
    return out


BALANCE = Balance(BalanceSpec(coef=0.05), torch.tensor([0.05]))


def gradients(model, group, work, bucket_bytes=4096, balance=BALANCE) -> tuple[dict, int]:
    parallel = DataParallel(model, group, bucket_bytes)
    for index, (tokens, targets) in enumerate(work):
        output = model(tokens, targets, balance=balance)
        parallel.backward(output.loss, output.num_targets, last=index == len(work) - 1)
    total = parallel.finish()
    return {name: p.grad for name, p in model.named_parameters()}, total


def reference(model, work, balance=BALANCE) -> dict:
    """One process, plain autograd: sum of token losses over all tokens."""
    outputs = [model(*batch, balance=balance) for batch in work]
    total = sum(int(o.num_targets) for o in outputs)
    sum(o.loss * int(o.num_targets) / total for o in outputs).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def compare(got: dict, want: dict, tolerance: float = 2e-6) -> None:
    for name in want:
        assert (got[name] is None) == (want[name] is None), f"{name}: {got[name]} against {want[name]}"
        if want[name] is not None:
            error = (got[name] - want[name]).norm() / want[name].norm().clamp(min=1e-12)
            assert error < tolerance, f"{name}: relative error {error}"


def shares_of_unlike_size_match_one_process(group: Collective) -> int:
    work = batches(5)
    share = [work[0:1], work[1:3], work[3:5]][group.rank]
    got, total = gradients(build(), group, share)
    compare(got, reference(build(), work))
    return total


def whole_batch_matches(group: Collective) -> int:
    """Without a balance loss, the split into micro-batches leaves no trace at all."""
    work = batches(3)
    got, total = gradients(build(), group, work[group.rank : group.rank + 1], balance=None)
    joined = [(torch.cat([w[0] for w in work]), torch.cat([w[1] for w in work]))]
    compare(got, reference(build(), joined, balance=None))
    return total


def idle_experts_and_idle_ranks(group: Collective) -> int:
    """Experts 0 and 1 get all tokens on rank 0, experts 2 and 3 none anywhere; rank 2 has no work."""
    model, alone = build(), build()
    for each in (model, alone):
        with torch.no_grad():
            each.layers[1].moe.router.weight.zero_()
    work = batches(2)
    got, total = gradients(model, group, [work[:1], work[1:], []][group.rank])
    want = reference(alone, work)
    assert want["layers.1.moe.experts.2.gate_up"] is None
    compare(got, want)
    return total


def one_rank_has_no_token_for_an_expert(group: Collective) -> int:
    """Two steps in a row: what one step leaves behind must not leak into the next."""
    model, alone = build(top_k=1), build(top_k=1)
    parallel = DataParallel(model, group, 1024)
    draws = torch.Generator().manual_seed(SEED)
    for _ in range(2):
        work = [(t, t.roll(-1, 1)) for t in torch.randint(0, 64, (3, 1, 2), generator=draws)]
        model.zero_grad()
        alone.zero_grad()
        output = model(*work[group.rank], balance=BALANCE)
        parallel.backward(output.loss, output.num_targets, last=True)
        parallel.finish()
        compare({n: p.grad for n, p in model.named_parameters()}, reference(alone, work))
    return 0


def training_keeps_ranks_bit_equal(group: Collective) -> list[float]:
    """Ranks start apart, are made equal, and stay so through AdamW; returns a checksum per parameter."""
    model = build()
    with torch.no_grad():
        model.norm.weight.add_(group.rank)
    parallel = DataParallel(model, group, 4096)
    parallel.broadcast_parameters()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(3):
        output = model(*batches(3)[group.rank])
        parallel.backward(output.loss, output.num_targets, last=True)
        parallel.finish()
        optimizer.step()
        optimizer.zero_grad()
    return [float(p.detach().double().sum()) for p in model.parameters()]


SCENARIOS = (
    shares_of_unlike_size_match_one_process,
    whole_batch_matches,
    idle_experts_and_idle_ranks,
    one_rank_has_no_token_for_an_expert,
    training_keeps_ranks_bit_equal,
)


def main() -> None:
    torch.set_num_threads(1)
    print(f"seed {SEED}", file=sys.stderr)
    report = {}
    for scenario in SCENARIOS:
        try:
            report[scenario.__name__] = {"values": run_ranks(scenario, 3)}
        except Exception:
            report[scenario.__name__] = {"error": traceback.format_exc()}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
