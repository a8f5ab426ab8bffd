"""How a row's model lies on its chips: the layout that it states, and what is usual where it does not."""

import re

from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.layout import Layout, Precision, Recompute, Sharding
from isthmus.planner.published.frameworks import Framework
from isthmus.planner.published.notes import ACCUMULATION, layer_split, stated
from isthmus.planner.published.rows import Row
from isthmus.planner.published.shape import Shape
from isthmus.planner.published.usual import USUAL, usual_name
from isthmus.spec.count import count_params
from isthmus.spec.model import ModelSpec

_PRECISIONS: tuple[tuple[str, Precision], ...] = (
    ("fp4", "fp4"), ("fp8", "fp8"), ("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "fp32"),
    ("tf32", "fp32"),
)  # fmt: skip
"""The narrowest that a row names is that of its matrix products."""


def _precision(row: Row, framework: Framework, assumed: list[str]) -> Precision:
    said = row.precision.lower()
    if not said:
        assumed.append(f"precision {framework.precision}")
        return framework.precision
    found: list[Precision] = [precision for word, precision in _PRECISIONS if word in said]
    if not found and "amp" not in said:
        assumed.append(f"'{row.precision}' multiplies in 16 bits")
    return found[0] if found else "bf16"


def layout_of(
    row: Row, shape: Shape, framework: Framework, chip: ChipModel, assumed: list[str]
) -> Layout | str:
    sharding = _sharding(row, framework)
    tp, pp, cp = _degrees(row, shape.model, chip, sharding, assumed)
    dp = row.dp or row.n_chips // (tp * pp * cp)
    ep = min(row.ep or 1, max(1, shape.model.num_experts))
    refused = _refused(row, shape.model, (tp, pp, cp, dp, ep))
    if refused:
        return refused
    if tp * pp * cp * dp < row.n_chips:
        assumed.append(f"{row.n_chips - tp * pp * cp * dp} chips without a part")
    micro_batch, micro_batches = _batches(row, framework, (dp, pp, shape.seq_len), assumed)
    return Layout(
        tp=tp,
        cp=cp,
        pp=pp,
        virtual=_virtual(row, framework, pp, shape.model.num_layers // pp, assumed),
        dp=dp,
        ep=ep,
        etp=1 if (tp * cp * dp) % ep == 0 else tp,
        micro_batch=micro_batch,
        micro_batches=micro_batches,
        seq_len=shape.seq_len,
        recompute=_recompute(row, assumed),
        sharding=sharding,
        precision=_precision(row, framework, assumed),
    )


def _refused(row: Row, model: ModelSpec, degrees: tuple[int, int, int, int, int]) -> str:
    """Why no run can be so; empty: it can. `degrees`: tp, pp, cp, dp, ep."""
    tp, pp, cp, dp, ep = degrees
    if not row.n_chips:
        return "it has no chips"
    if dp < 1 or tp * pp * cp * dp > row.n_chips:
        return f"tp {tp} x pp {pp} x cp {cp} x dp {max(1, dp)} is more than {row.n_chips} chips"
    if pp > model.num_layers:
        return f"{pp} stages are more than the model's {model.num_layers} layers"
    if ep > tp * cp * dp:
        return f"ep {ep} is more than the {tp * cp * dp} chips of a stage"
    return ""


def _degrees(
    row: Row, model: ModelSpec, chip: ChipModel, sharding: Sharding, assumed: list[str]
) -> tuple[int, int, int]:
    """(tp, pp, cp); where the row has none, the least that 18 bytes a parameter fit in half of the memory,
    which is no matter where all of the state is shared out over the replicas."""
    cp = row.cp or 1
    if row.tp or row.pp:
        return row.tp or 1, row.pp or 1, cp
    if row.dp:
        rest = max(1, row.n_chips // (row.dp * cp))
        return min(rest, 8), max(1, rest // 8), cp
    need = 18 * count_params(model) / (0.5 * chip.memory_bytes) if sharding < 3 else 1.0
    tp = pp = 1
    while tp < 8 and tp * pp < need and tp * 2 * cp <= row.n_chips:
        tp *= 2
    most = min(model.num_layers, row.n_chips // (tp * cp * max(1, (row.ep or 1) // (tp * cp))))
    fitting = [stages for stages in range(1, most + 1) if row.n_chips % (tp * cp * stages) == 0]
    pp = next((stages for stages in fitting if tp * stages >= need), max(fitting, default=1))
    assumed.append(f"tp {tp}, pp {pp}")
    return tp, pp, cp


def _virtual(row: Row, framework: Framework, pp: int, layers: int, assumed: list[str]) -> int:
    """Chunks of a stage with so many layers; without a pipeline there are none."""
    if pp == 1:
        return 1
    if framework.interleaved and not row.vpp:
        assumed.append(f"{layers} chunks to a stage")
        return max(1, layers)
    return max(1, min(row.vpp or 1, layers))


def _batches(
    row: Row, framework: Framework, given: tuple[int, int, int], assumed: list[str]
) -> tuple[int, int]:
    """(micro_batch, micro_batches); `given`: replicas, stages, sequence length."""
    dp, pp, seq_len = given
    size = row.micro_batch
    total = row.global_batch or stated(r"\bGBS", row.notes)
    if framework.name == "torchtitan" and size and pp > 1:
        return 1, size
    script = usual_name(row)
    if not size:
        size = stated(r"\bLBS", row.notes) or (USUAL[script].micro_batch if script else 1)
        assumed.append(f"micro-batch {size}")
    if total:
        return size, max(1, round(total / (dp * size)))
    count = stated(ACCUMULATION, row.notes)
    if count:
        return size, count
    if framework.name == "torchtitan":
        return size, 1
    if script:
        assumed.append(f"{USUAL[script].accumulate} micro-batches")
        return size, USUAL[script].accumulate
    usual = max(4 * pp if pp > 1 else 1, round(USUAL_TOKENS / (seq_len * dp * size)))
    assumed.append(f"{usual} micro-batches")
    return size, usual


USUAL_TOKENS = 2**20
"""Of a step, where a row does not say."""


def _recompute(row: Row, assumed: list[str]) -> Recompute:
    said = row.recompute.lower()
    if "selective-op" in said:
        return "full"
    if "full" in said or "recompute=true" in row.notes.lower():
        return "full"
    if "selective" in said:
        return "selective"
    if said:
        return "none"
    script = usual_name(row)
    usual = USUAL[script].recompute if script else "none"
    assumed.append("nothing recomputed" if usual == "none" else f"{usual} recompute")
    return usual


def _sharding(row: Row, framework: Framework) -> Sharding:
    if re.search(r"FSDP=[1-9]", row.notes):
        return 3
    script = usual_name(row)
    return USUAL[script].sharding if script else framework.sharding


def shard_group_of(row: Row, layout: Layout) -> int:
    """InternEvo's zero1 is the size of the groups that share the state; -1: all replicas."""
    return min(layout.dp, stated("zero1", row.notes) or layout.dp)


def stages_of(row: Row, num_layers: int, layout: Layout) -> list[int]:
    """As the row has it ('layer split 7/9/9/9', embedding and head counted); otherwise even, with embedding
    and head as a layer each where that comes out even."""
    split = layer_split(row.notes)
    if len(split) == layout.pp and sum(split) == num_layers + 2 and min(split[0], split[-1]) > 0:
        split[0] -= 1
        split[-1] -= 1
        return split
    return even_stages(num_layers, layout)


def even_stages(num_layers: int, layout: Layout) -> list[int]:
    pp, chunks = layout.pp, layout.pp * layout.virtual
    if pp == 1:
        return [num_layers]
    with_ends = num_layers % chunks != 0 and ((num_layers + 2) % chunks == 0 or num_layers % pp != 0)
    total = num_layers + 2 if with_ends else num_layers
    stages = [total // pp] * pp
    for extra in range(total % pp):
        stages[pp // 2 - (extra + 1) // 2 * (-1) ** extra if pp > 2 else 0] += 1
    if with_ends:
        stages[0] -= 1
        stages[-1] -= 1
    return stages
