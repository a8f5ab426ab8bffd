"""Skywork-MoE on 1,536 A800 (arXiv 2406.06563, app. B): is its layout what we would have chosen, is its
throughput what we predict, and is its split of 24 layers ours?

The belief has not seen this run. The paper gives pp 12, tp 4 with the experts spread over the tensor group
(EDP: ep = tp), dp 32 with ZeRO-1, sequences of 8,192; not the batch, so that layouts are ranked for several.
"""

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from isthmus.errors import CheckFailedError
from isthmus.planner.belief.file import shipped
from isthmus.planner.belief.posterior import Posterior, condition
from isthmus.planner.cost.factors import Factors
from isthmus.planner.layout import Layout, Recompute
from isthmus.planner.published.case import Case, case_of
from isthmus.planner.published.query import query_of
from isthmus.planner.published.rows import Row
from isthmus.planner.search.pools import Pool, pools_of
from isthmus.planner.search.space import Family
from isthmus.planner.search.template import Job, Segment, Template, evaluate, layout_of, problem_of
from isthmus.planner.split import Split, SplitProblem, score, split
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.presets import presets
from isthmus.spec.run import DataSpec, RunSpec, TrainSpec
from isthmus_bench.document import Result

CHIPS, PER_NODE = 1536, 8
SEQ_LEN = 8192
PUBLISHED = (4, 12, 4)
"""Tensor, pipeline, expert degree."""
RATE = 690.0
"""Tokens/s of a chip."""
ROW = Row(
    id="skywork-moe",
    line=0,
    source="Skywork-MoE report App. B",
    model="Skywork-MoE-146B-A22B",
    chip="A800-80G",
    n_chips=CHIPS,
    chips_per_node=PER_NODE,
    tp=PUBLISHED[0],
    pp=PUBLISHED[1],
    ep=PUBLISHED[2],
    dp=32,
    precision="bf16",
    tokens_per_s_per_chip=RATE,
    notes="ZeRO-1; 800Gb/s RoCE",
)
BATCHES = (1024, 1536, 2048)
"""Sequences of a step: 8 to 17 million tokens."""
LAYERS, UNIFORM, PAPERS = 24, [6, 6, 6, 6], [5, 5, 5, 5, 4]
MICRO_BATCHES, DP = 48, 32


def run(quick: bool) -> list[Result]:
    """About ten seconds."""
    case = case_of(ROW)
    if isinstance(case, str):
        raise CheckFailedError(f"Skywork-MoE's run cannot be modelled: {case}")
    others = [each for each in shipped().runs if each.query.groups.framework != case.framework.name]
    posterior = condition(others)
    factors = posterior.factors(query_of(case).groups)
    batches = BATCHES[:1] if quick else BATCHES
    return [ranks(factors, batches), throughput(posterior, case), *splits(factors)]


def ranks(factors: Factors, batches: tuple[int, ...]) -> Result:
    """Of (tp, pp, experts over the tensor group or cut like the layer), each with its best micro-batch,
    chunks and recompute."""
    by_batch: dict[int, int] = {}
    told: list[str] = []
    for batch in batches:
        best = sorted(layouts(factors, batch), key=lambda each: each.step_s)
        names = [degrees(each.layout) for each in best]
        by_batch[batch] = names.index(PUBLISHED) + 1
        rates = [batch * SEQ_LEN / CHIPS / each.step_s for each in best]
        first = ", ".join(
            f"tp {tp} pp {pp} ep {ep} {rate:.0f}"
            for (tp, pp, ep), rate in zip(names[:4], rates, strict=False)
        )
        mine = f"rank {by_batch[batch]} of {len(best)}, {rates[names.index(PUBLISHED)]:.0f} tokens/s"
        told.append(f"{batch} sequences: {mine} ({first})")
    note = "the paper gives no batch; median over " + "; ".join(told)
    return Result("planner.skywork.rank", median(by_batch.values()), "rank", {}, note)


def degrees(layout: Layout) -> tuple[int, int, int]:
    return layout.tp, layout.pp, layout.ep


def layouts(factors: Factors, batch: int) -> Iterator[Template]:
    """On all chips, as Megatron-LM of that time has them: 1F1B, interleaved where it divides, ZeRO-1."""
    pool = a800(CHIPS)
    job = job_of(batch, factors, pool)
    for tp in (1, 2, 4):
        for ep, etp in sorted({(tp, 1), (1, tp)}):
            for pp in [size for size in range(1, 53) if CHIPS % (tp * size) == 0]:
                ran = [_try(job, pool, layout) for layout in _variants(job, pool, (tp, ep, etp, pp))]
                fits = [template for template in ran if template is not None]
                if fits:
                    yield min(fits, key=lambda each: each.step_s)


def _variants(job: Job, pool: Pool, cut: tuple[int, int, int, int]) -> Iterator[Layout]:
    tp, ep, etp, pp = cut
    dp, layers = CHIPS // tp // pp, job.run.model.num_layers
    recomputes: tuple[Recompute, ...] = ("none", "selective")
    for micro_batch in (1, 2, 4):
        micro_batches, rest = divmod(job.batch, dp * micro_batch)
        for virtual in range(1, layers // pp + 1):
            goes = virtual == 1 or (pp > 1 and layers % virtual == 0 and micro_batches % pp == 0)
            if rest or not micro_batches or not goes:
                continue
            for recompute in recomputes:
                family = Family(tp, 1, ep, etp, micro_batch, recompute, 1)
                yield layout_of(job, pool, family, (pp, virtual, dp, micro_batches))


def _try(job: Job, pool: Pool, layout: Layout) -> Template | None:
    return evaluate(job, (Segment(pool, layout.tp, layout.pp),), layout)


def a800(chips: int) -> Pool:
    nodes = [NodeSpec(count=chips // PER_NODE, chips={"a800": PER_NODE})]
    return pools_of(FleetSpec(sites={"a": SiteSpec(nodes=nodes)}), "a")[0]


def job_of(batch: int, factors: Factors, pool: Pool) -> Job:
    run = RunSpec(
        model=presets["skywork-moe-146b"],
        data=DataSpec(seq_len=SEQ_LEN),
        train=TrainSpec(batch_size=batch),
    )
    return Job(run, {pool.chip.name: factors})


def throughput(posterior: Posterior, case: Case) -> Result:
    """By the belief after all the other sources."""
    said = posterior.predict([query_of(case)])[0]
    rate, low, high = (case.tokens_per_chip / each for each in (said.step_s, said.high_s, said.low_s))
    note = (
        f"predicted {rate:.0f} tokens/s of a chip, nine of ten such runs between {low:.0f} and {high:.0f}; "
        f"assumed: {', '.join(case.assumed)}"
    )
    return Result("planner.skywork.throughput", abs(rate / RATE - 1), "ratio", {"published": RATE}, note)


class Cuts(NamedTuple):
    """24 layers of a model, cut as the paper does at first, and by us."""

    layers: list[int]
    """Of our five stages."""
    gain: float
    """Work of a chip in equal time: ours / the uniform cut's - 1."""
    idle: tuple[float, float]
    """Share of the chips' time, uniform and ours."""

    def __str__(self) -> str:
        before, after = self.idle
        return f"{'/'.join(map(str, self.layers))}, {self.gain:+.1%}, idle {before:.1%} -> {after:.1%}"


def splits(factors: Factors) -> list[Result]:
    """24 layers in four equal stages against the exact split in five. The paper draws a model whose head
    takes about as long as a layer, which is the dense one; the same with its experts is told beside."""
    dense, moe = cuts(factors, "skywork-13b"), cuts(factors, "skywork-moe-146b")
    note = f"{MICRO_BATCHES} micro-batches, {UNIFORM} against ours; dense: {dense}; experts: {moe}"
    same = f"24 layers in 5 stages: ours {dense.layers}, the paper's {PAPERS}"
    peers = {"the paper, of the bubble, up to": 0.10}
    return [
        Result("planner.skywork.split", float(dense.layers == PAPERS), "bool", {}, same),
        Result("planner.skywork.split_gain", dense.gain, "ratio", peers, note),
    ]


def cuts(factors: Factors, name: str) -> Cuts:
    pool = a800(CHIPS)
    run = job_of(MICRO_BATCHES, factors, pool).run
    job = Job(replace(run, model=replace(presets[name], num_layers=sum(UNIFORM))), {pool.chip.name: factors})
    family = (
        Family(4, 1, 4, 1, 1, "none", 1) if job.run.model.num_experts else Family(4, 1, 1, 4, 1, "none", 1)
    )

    def problem(stages: int) -> SplitProblem:
        layout = layout_of(job, pool, family, (stages, 1, DP, MICRO_BATCHES))
        return problem_of(job, (Segment(pool, layout.tp, stages),), layout)

    uniform, ours = score(problem(len(UNIFORM)), np.cumsum(UNIFORM)), split(problem(len(PAPERS)))
    if uniform is None or ours is None:
        raise CheckFailedError(f"24 layers of {name} do not fit")
    return Cuts(
        layers=np.diff(ours.ends_S, prepend=0).tolist(),
        gain=len(UNIFORM) * uniform.step_s / (len(PAPERS) * ours.step_s) - 1,
        idle=(_idle(uniform), _idle(ours)),
    )


def _idle(cut: Split) -> float:
    return 1 - MICRO_BATCHES * float(cut.time_S.mean()) / cut.step_s
