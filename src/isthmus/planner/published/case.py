"""A row as the cost functions take it: model, chip, network, layout, stages, and what had to be assumed."""

from itertools import pairwise

from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.belief.features import Setup
from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.cost.network import Network
from isthmus.planner.layout import Layout
from isthmus.planner.published.flops import token_flops
from isthmus.planner.published.frameworks import Framework, find_framework
from isthmus.planner.published.kinds import chips_of
from isthmus.planner.published.notes import ACCUMULATION, node_gb_s, stated
from isthmus.planner.published.placement import layout_of, shard_group_of, stages_of
from isthmus.planner.published.rows import Row
from isthmus.planner.published.shape import shape_of
from isthmus.planner.published.usual import USUAL, usual_name


class Case(Setup, frozen=True, kw_only=True):
    """A row's run, with what is measured of it."""

    id: str
    source: str
    name: str
    """Of the model, as the row has it."""
    framework: Framework
    recipe: str
    """Precision as the row has it, and 'hybrid' for models with state-space layers."""
    hardware_flops: bool
    """The row's TFLOPS count what is computed again."""
    step_s: float
    """Measured; 0: the row has no time."""
    assumed: list[str]
    doubt: float
    """Standard deviation of log seconds by what had to be assumed."""

    @property
    def tokens_per_chip(self) -> float:
        """In one step."""
        return self.layout.step_tokens / self.layout.num_chips

    @property
    def reported_flops(self) -> float:
        """Of a token, as the row's source counts them."""
        full = self.hardware_flops and self.layout.recompute == "full"
        return token_flops(self.model, self.layout.seq_len, full, self.framework.causal_flops)


def case_of(row: Row) -> Case | str:
    """Or why the row cannot be modelled."""
    try:
        return _case(row)
    except InputError as error:
        return f"{error.message} ({error.hint})" if error.hint else error.message


def _case(row: Row) -> Case | str:
    """InputError for an unknown chip."""
    shape = shape_of(row)
    if isinstance(shape, str):
        return shape
    framework = _framework(row)
    assumed = list(shape.assumed)
    chips = chips_of(row, assumed)
    layout = layout_of(row, shape, framework, chips[0], assumed)
    if isinstance(layout, str):
        return layout
    for chip in chips:
        if not chip.peak_tflops(layout.precision):
            return f"the {layout.precision} rate of {chip.name} is not known"
    _name_wider(layout.precision, chips, assumed)
    recipe = " ".join([row.precision.lower() or layout.precision, *shape.kind])
    case = Case(
        id=row.id,
        source=row.source,
        name=row.model,
        model=shape.model,
        core=shape.core * _imbalance(framework, layout.cp) * _old_kernel(framework, chips[0]),
        chips=_spread(chips, layout),
        network=_network(row, chips[0], framework),
        layout=layout,
        stages=stages_of(row, shape.model.num_layers, layout),
        recomputed=_recomputed(row, framework, layout),
        shard_group=shard_group_of(row, layout),
        nodes=max(1.0, row.n_chips / (row.chips_per_node or chips[0].per_node)),
        framework=framework,
        recipe=recipe,
        eager=framework.eager or "eager" in row.notes.lower(),
        async_tensor="async" in row.notes.lower(),
        fused_attention=framework.fused_attention,
        row_scales="row" in recipe,
        hardware_flops=any(word in row.notes.lower() for word in ("hardware", "by megatron formula")),
        step_s=0.0,
        assumed=assumed,
        doubt=_doubt(row),
    )
    return replace(case, step_s=_measured(row, case))


_DOUBTS: tuple[tuple[str, float], ...] = (
    ("tp", 0.15), ("seq", 0.08), ("micro_batch", 0.06), ("global_batch", 0.04), ("recompute", 0.03),
)  # fmt: skip
"""What not knowing a column is worth, as a standard deviation of log seconds: the layout most."""


def _doubt(row: Row) -> float:
    """Micro-batches that the notes state count as a global batch; a script's settings are known well."""
    if usual_name(row):
        return 0.05
    squares = sum(doubt**2 for column, doubt in _DOUBTS if not getattr(row, column))
    counted = stated(ACCUMULATION, row.notes) and not row.global_batch
    return (squares - (0.04**2 if counted else 0.0)) ** 0.5


def _imbalance(framework: Framework, cp: int) -> float:
    """Work of the rank with the end of the sequence, which attends to all of it, over the mean."""
    return 1.0 if framework.balanced_context else (2 * cp - 1) / cp


def _old_kernel(framework: Framework, chip: ChipModel) -> float:
    """FlashAttention 2 takes 1 / 1.9 of the time of 1 (arXiv 2307.08691, fig. 5); on an H100 it reaches about
    350 TFLOP/s, and kernels written for that 600 (arXiv 2407.08608, fig. 5)."""
    first = 1.9 if framework.flash == 1 else 1.0
    later = chip.generation in ("hopper", "blackwell") and framework.flash < 3
    return first * (1.7 if later else 1.0)


def _name_wider(precision: str, chips: list[ChipModel], assumed: list[str]) -> None:
    """A chip without units for the format multiplies in the next wider one."""
    if precision in ("fp8", "fp4"):
        lacking = {chip.name for chip in chips if not getattr(chip, f"{precision}_tflops")}
        assumed += [f"a wider format than {precision} on {name}" for name in sorted(lacking)]


def _spread(chips: list[ChipModel], layout: Layout) -> list[ChipModel]:
    """Of each stage: the kinds in the order the row names them, in proportion to their chips; the slowest of
    those that share a stage."""
    ends = [stage * len(chips) // layout.pp for stage in range(layout.pp + 1)]
    parts = [chips[first : max(first + 1, end)] for first, end in pairwise(ends)]
    return [min(part, key=lambda chip: chip.peak_tflops(layout.precision)) for part in parts]


def _network(row: Row, chip: ChipModel, framework: Framework) -> Network:
    """The datasheet's, with the node size and the network that the row states."""
    network = Network.of(chip)
    if framework.nic_gb_s:
        network = replace(network, nic=network.nic._replace(gb_s=framework.nic_gb_s))
    per_node = row.chips_per_node or chip.per_node
    if not chip.node_domain:
        network = replace(network, domain=per_node)
    gb_s = node_gb_s(row.notes)
    if gb_s:
        network = replace(network, nic=network.nic._replace(gb_s=gb_s / per_node))
    return network


def _framework(row: Row) -> Framework:
    """With the attention that the row's script runs."""
    framework = find_framework(row.source, row.url_or_repo_path, row.notes)
    script = usual_name(row)
    if script and not (USUAL[script].convention.flash and row.precision.lower() != "fp32"):
        return replace(framework, fused_attention=False)
    return framework


def _recomputed(row: Row, framework: Framework, layout: Layout) -> float:
    """torchtitan's 'selective' computes every other layer, or every other product, again."""
    if framework.family == "fsdp" and "selective" in row.recompute.lower():
        return 0.5
    return 1.0


def _measured(row: Row, case: Case) -> float:
    """Seconds of a step: stated, or from tokens/s, TFLOPS or MFU of a chip."""
    if row.step_time_s:
        return row.step_time_s
    if row.tokens_per_s_per_chip:
        return case.tokens_per_chip / row.tokens_per_s_per_chip
    rate = row.tflops_per_chip or row.mfu_pct / 100 * case.chip.peak_tflops(case.layout.precision)
    return case.tokens_per_chip * case.reported_flops / (rate * 1e12) if rate else 0.0
