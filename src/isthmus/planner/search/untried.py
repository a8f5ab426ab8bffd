"""Degrees that the search does not try, and why."""

from collections.abc import Iterator, Sequence

from isthmus.planner.cost.convention import ISTHMUS
from isthmus.planner.search.fleet import Group, Survey
from isthmus.planner.search.space import (
    CONTEXT_TOKENS,
    MAX_EXPERT_PARALLEL,
    MAX_MICRO_TOKENS,
    context_degrees,
    expert_degrees,
    micro_batches,
    tensor_degrees,
)
from isthmus.spec.run import RunSpec

MOST_NAMED = 4
"""Degrees that are named one by one."""


def untried(found: Survey, groups: Sequence[Group]) -> list[str]:
    """Degrees near to those that were tried, and why they were not."""
    if found.job.convention is ISTHMUS:
        return []
    pools = [pool for group in groups for site in group.sites for pool in found.pools[site]]
    run = found.job.run
    lines = [line for pool in pools for line in _tensor(run, pool.per_node)]
    return list(dict.fromkeys([*lines, *_context(run), *_experts(run), *_micro_batches(run)]))


def _tensor(run: RunSpec, per_node: int) -> Iterator[str]:
    model, fixed = run.model, run.parallel
    if fixed.tp:
        yield f"tp other than {fixed.tp}: fixed by parallel.tp"
        return
    tried = tensor_degrees(model, fixed, per_node)
    for tp in range(1, per_node + 1):
        if per_node % tp or tp in tried:
            continue
        if model.num_heads % tp:
            yield f"tp {tp}: {model.num_heads} heads do not divide"
        elif model.num_kv_heads % tp and tp % model.num_kv_heads:
            yield f"tp {tp}: {model.num_kv_heads} key-value heads are not shared evenly"
        else:
            yield f"tp {tp}: a width of the model does not divide"
    yield f"tp above {per_node}: a node has {per_node} chip{'s' * (per_node > 1)}"


def _context(run: RunSpec) -> Iterator[str]:
    tried = context_degrees(run.parallel, run.data.seq_len)
    if run.parallel.cp:
        yield f"cp other than {run.parallel.cp}: fixed by parallel.cp"
    elif tried[-1] < 16:
        least = f"{CONTEXT_TOKENS:,} of a sequence's {run.data.seq_len:,} tokens"
        yield f"cp above {tried[-1]}: a chip would keep less than {least}"


def _experts(run: RunSpec) -> Iterator[str]:
    model = run.model
    if not model.moe_layers:
        return
    if run.parallel.ep:
        yield f"ep other than {run.parallel.ep}: fixed by parallel.ep"
        return
    tried = expert_degrees(model, run.parallel)
    powers = [ep for ep in (2, 4, 8, 16, 32, 64) if ep < model.num_experts and ep not in tried]
    if powers:
        yield f"ep {_listed(powers)}: {model.num_experts} experts do not divide"
    if model.num_experts > MAX_EXPERT_PARALLEL:
        yield f"ep above {MAX_EXPERT_PARALLEL}: messages to so many chips become too small"


def _micro_batches(run: RunSpec) -> Iterator[str]:
    fixed = run.train.micro_batch_size
    if fixed:
        yield f"micro-batches other than {fixed}: fixed by train.micro_batch_size"
        return
    tried = micro_batches(run, 1)
    powers = [size for size in (2, 4, 8, 16) if size < tried[-1] or size * 2 <= run.train.batch_size]
    uneven = [size for size in powers if run.train.batch_size % size and size not in tried]
    if uneven:
        yield f"micro-batches of {_listed(uneven)}: {run.train.batch_size} sequences do not divide"
    if tried[-1] * 2 <= run.train.batch_size and (tried[-1] * 2) * run.data.seq_len > MAX_MICRO_TOKENS:
        yield f"micro-batches above {tried[-1]}: more than {MAX_MICRO_TOKENS:,} tokens at once"


def _listed(degrees: Sequence[int]) -> str:
    return ", ".join(str(each) for each in degrees[:MOST_NAMED])
