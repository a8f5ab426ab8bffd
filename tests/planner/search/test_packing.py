"""The search on small fleets, against everything that it could have chosen."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.planner.cost.factors import Factors
from isthmus.planner.search.alike import search_pool, usable_families
from isthmus.planner.search.chain import search_chain
from isthmus.planner.search.pack import Packing, joined_s, pack_site
from isthmus.planner.search.pools import Pool, pools_of
from isthmus.planner.search.template import Job, Segment, evaluate, layout_of, problem_of, time_of
from isthmus.planner.split import even_ends, score
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.run import DataSpec, ParallelSpec, RunSpec, TrainSpec

from .conftest import MODEL

SMALL = replace(MODEL, num_layers=6)
MOE = replace(SMALL, num_experts=4, top_k=2, expert_ffn_size=2048)


def pools(memory_gib=None, **nodes):
    """`nodes`: chip -> nodes of two chips."""
    machines = [NodeSpec(count=count, chips={chip: 2}) for chip, count in nodes.items()]
    found = pools_of(FleetSpec(sites={"a": SiteSpec(nodes=machines)}), "a")
    if memory_gib is None:
        return found
    return [small(pool, memory_gib) for pool in found]


def small(pool: Pool, memory_gib: float) -> Pool:
    return replace(pool, chip=replace(pool.chip, memory_gib=memory_gib))


class Same(dict):
    def __missing__(self, name):
        return Factors()


@pytest.fixture
def make_job(make_run):
    def job(model=SMALL, batch=16, **parallel):
        run = make_run(model=model, batch=batch, seq_len=2048)
        return Job(replace(run, parallel=ParallelSpec(**parallel)), Same())

    return job


def every_template(job, pool, batch):
    """All shapes of all families on one pool, with as few replicas as their micro-batches need."""
    layers = job.run.model.num_layers
    for family in usable_families(job, pool):
        width, experts = family.tp * family.cp, family.ep * family.etp
        unit = experts // math.gcd(experts, width)
        rounds = -(-batch // family.micro_batch)
        for stages in range(1, 2 if family.sharding == 3 else layers + 1):
            most = min(pool.num_chips // (width * stages), rounds) // unit * unit
            for virtual in [v for v in range(1, layers // stages + 1) if layers % v == 0]:
                turn = stages if virtual > 1 else 1
                if not most or (virtual > 1 and stages == 1):
                    continue
                count = math.ceil(rounds / most / turn) * turn
                replicas = math.ceil(rounds / count / unit) * unit
                layout = layout_of(job, pool, family, (stages, virtual, replicas, count))
                template = evaluate(job, (Segment(pool, family.tp, stages),), layout)
                if template is not None:
                    yield template


@pytest.mark.parametrize("model", [SMALL, MOE])
@pytest.mark.parametrize("memory_gib", [12.0, 24.0, 80.0])
@pytest.mark.parametrize("nodes", [1, 3])
def test_no_template_of_a_pool_is_faster(make_job, model, memory_gib, nodes):
    (pool,) = pools(memory_gib, a100=nodes)
    job = make_job(model)
    found = search_pool(job, pool, job.batch)
    least = min((each.step_s for each in every_template(job, pool, job.batch)), default=math.inf)
    if math.isinf(least):
        assert found.best is None
    else:
        assert found.best is not None
        assert found.best.step_s == pytest.approx(least, rel=1e-12)
        assert found.bound_s <= least * (1 + 1e-12)


@pytest.mark.parametrize("memory_gib", [16.0, 80.0])
def test_no_pair_of_templates_beats_a_packing_or_its_bound(make_job, memory_gib):
    """Of two pools, each with one template of as many replicas as its chips give."""
    job = make_job(batch=24, recompute="none", sharding="optimizer", cp=1)
    both = pools(memory_gib, a100=2, h100=2)
    packing = pack_site(job, both)
    assert isinstance(packing, Packing)
    assert packing.bound_s <= packing.step_s
    halves = [
        [template for share in range(1, job.batch + 1) for template in every_template(job, pool, share)]
        for pool in both
    ]
    least = min(
        joined_s(job, pair)
        for pair in itertools.product(*(fastest(each) for each in halves))
        if sum(sequences(each) for each in pair) >= job.batch
    )
    assert packing.bound_s <= least
    assert packing.step_s <= least * 1.01


def sequences(template):
    return template.layout.dp * template.layout.replica_batch


def fastest(templates):
    """For each number of sequences the fastest."""
    best = {}
    for template in templates:
        known = best.get(sequences(template))
        if known is None or template.step_s < known.step_s:
            best[sequences(template)] = template
    return list(best.values())


def check(job, packing):
    """Each layer once, in memory, the whole batch, never slower than an even cut of the same stages."""
    assert sum(sequences(each) for each in packing.templates) >= job.batch
    assert packing.bound_s <= packing.step_s
    assert packing.step_s == pytest.approx(joined_s(job, packing.templates))
    for template in packing.templates:
        split, layout = template.split, template.layout
        sizes = np.diff(split.ends_S, prepend=0)
        assert (sizes > 0).all()
        assert sizes.sum() * layout.virtual == job.run.model.num_layers
        assert (split.memory_S <= np.array(template.limits)).all()
        problem = problem_of(job, template.segments, layout)
        even = score(problem, even_ends(int(split.ends_S[-1]), len(sizes)))
        if even is not None:
            assert template.split.step_s <= even.step_s * (1 + 1e-12)
            assert time_of(job, template.segments, layout, even).compute_s > 0


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(["a100", "h100"]),
    st.integers(1, 4),
    st.integers(0, 3),
    st.sampled_from([8, 16, 40]),
    st.sampled_from([14.0, 24.0, 80.0]),
    st.booleans(),
)
def test_packings_are_whole(first, nodes, others, batch, memory_gib, moe):
    kinds = {first: nodes} | ({"a800": others} if others else {})
    job = job_for(MOE if moe else SMALL, batch)
    packing = pack_site(job, pools(memory_gib, **kinds))
    again = pack_site(job_for(MOE if moe else SMALL, batch), pools(memory_gib, **kinds))
    assert repr(again) == repr(packing)
    if isinstance(packing, Packing):
        check(job, packing)


def job_for(model, batch):
    run = RunSpec(model=model, data=DataSpec(seq_len=2048), train=TrainSpec(batch_size=batch))
    return Job(run, Same())


@pytest.mark.parametrize("batch", [5, 24, 64])
@pytest.mark.parametrize("model", [SMALL, MOE])
def test_more_nodes_of_a_kind_are_never_slower(make_job, batch, model):
    times = [search_pool(make_job(model, batch), pools(24.0, a100=n)[0], batch).best for n in range(1, 9)]
    steps = [found.step_s for found in times if found]
    assert len(steps) > 4
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(steps))


def test_more_nodes_beside_another_kind_are_not_slower(make_job):
    """But for what more nodes wait for each other and exchange, where they cannot help."""
    job = make_job(batch=48)
    steps = [pack_site(job, pools(24.0, a100=2, h100=count)).step_s for count in range(1, 6)]
    assert all(after <= before * 1.005 for before, after in itertools.pairwise(steps))


def test_idle_nodes_get_a_template_of_their_own(make_job):
    """Three nodes, stages in twos: the third node takes a part of the batch."""
    job = make_job(batch=96, pp=4, tp=1, cp=1)
    packing = pack_site(job, pools(80.0, a100=3))
    alone = search_pool(job, pools(80.0, a100=3)[0], job.batch).best
    assert isinstance(packing, Packing)
    assert packing.step_s <= alone.step_s
    assert packing.bound_s <= packing.step_s


def test_the_chain_is_the_best_of_its_numbers_of_replicas(make_job):
    """No order of the pools, degree or number of replicas is faster."""
    job = make_job(batch=32, recompute="none", cp=1)
    both = pools(80.0, a100=1, h100=1)
    found = search_chain(job, both, job.batch).best
    for order in itertools.permutations(both):
        for tp in itertools.product((1, 2), repeat=2):
            for replicas in range(1, 3):
                stages = [
                    pool.num_chips // degree // replicas for pool, degree in zip(order, tp, strict=True)
                ]
                for size in (1, 2, 4, 8):
                    rest = 32 % (replicas * size)
                    if min(stages) == 0 or sum(stages) > SMALL.num_layers or rest:
                        continue
                    family = next(
                        each
                        for each in usable_families(job, both[0])
                        if each.tp == max(tp) and each.micro_batch == size and each.sharding == 1
                    )
                    shape = (sum(stages), 1, replicas, 32 // (replicas * size))
                    layout = layout_of(job, order[0], family, shape)
                    segments = [Segment(p, t, s) for p, t, s in zip(order, tp, stages, strict=True)]
                    template = evaluate(job, segments, layout)
                    if template is not None:
                        assert found.step_s <= template.step_s * (1 + 1e-9)
