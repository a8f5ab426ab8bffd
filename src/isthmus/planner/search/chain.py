"""The best template over unlike chips: one pipeline with stages on several pools, maybe at several sites.

Each pool has its own tensor degree and as many stages as its chips give for the common number of replicas.
The pools come in one order, which decides who holds more micro-batches in flight. Of W_p seconds that a
micro-batch takes through all blocks on pool p, with S_p stages there, the slowest stage has at least
1 / sum_p (S_p / W_p), and at least the time in which all stages together hold all layers, each a whole number
of them; all stages together take at least min_p W_p.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from isthmus.planner.cost.ideal import STEP_S
from isthmus.planner.layout import Layout
from isthmus.planner.search.alike import Found, group_name, waiting_of
from isthmus.planner.search.front import Front, Lines
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.shapes import Floats, Ints
from isthmus.planner.search.space import Family, families
from isthmus.planner.search.template import (
    Job,
    Segment,
    Template,
    evaluate,
    explain_miss,
    layout_of,
)

MAX_TRIALS = 200
MAX_REPLICAS_TRIED = 64
MAX_DEGREES = 16
"""Combinations of the pools' tensor degrees; of each pool those with the least chip-seconds are tried."""
WORTH_ORDERING = 1.05
"""Other orders of the pools are tried for templates that are at most this much slower than the best."""


class Line(NamedTuple):
    """Between two sites, one direction: what a pipeline's activations travel on."""

    bytes_per_s: float
    delay_s: float
    """One way."""


class _Choice(NamedTuple):
    bound_s: float
    families: tuple[Family, ...]
    """One for each pool; they differ in tp alone."""
    stages: tuple[int, ...]
    replicas: int
    micro_batches: int

    def ordered(self, order: Sequence[int]) -> "_Choice":
        return self._replace(
            families=tuple(self.families[each] for each in order),
            stages=tuple(self.stages[each] for each in order),
        )


def search_chain(
    job: Job,
    pools: Sequence[Pool],
    batch: int,
    lines: Sequence[Line | None] = (),
    limit_s: float = math.inf,
) -> Found:
    """The fastest template over `pools` that takes less than `limit_s`. `lines`: how each pool is joined to
    the next in their order here, which is then the stages'; none: all at one site, in any order."""
    found = Found()
    for choice in _by_bound(job, pools, batch, lines):
        if choice.bound_s >= min(limit_s, found.limit_s) or found.trials >= MAX_TRIALS:
            found.bound_s = choice.bound_s
            break
        found.trials += 1
        first = _try(job, pools, choice, lines, found)
        if first is not None and not lines and first.step_s < WORTH_ORDERING * found.limit_s:
            for order in itertools.islice(itertools.permutations(range(len(pools))), 1, None):
                _try(job, [pools[each] for each in order], choice.ordered(order), lines, found)
    if found.best:
        found.bound_s = min(found.bound_s, found.best.step_s)
    return found


def _try(
    job: Job, pools: Sequence[Pool], choice: _Choice, lines: Sequence[Line | None], found: Found
) -> Template | None:
    layout = _layout(job, pools, choice)
    segments = [
        Segment(pool, family.tp, stages)
        for pool, family, stages in zip(pools, choice.families, choice.stages, strict=True)
    ]
    name = chain_name(segments, layout)
    template = evaluate(job, segments, layout)
    if template is not None:
        template = over_lines(template, job, lines)
        found.take(template, name)
    elif name not in found.groups:
        found.groups[name] = explain_miss(job, segments, layout)
    return template


def chain_name(segments: Sequence[Segment], layout: Layout) -> str:
    stages = " + ".join(f"{each.stages} {each.pool.name}" for each in segments)
    return f"{group_name(layout)} ({stages})"


def over_lines(template: Template, job: Job, lines: Sequence[Line | None]) -> Template:
    """With the long lines between its sites: all replicas' activations share them, each direction by itself.

    A line slower than the slowest stage takes its place; its delay passes twice before a step ends.
    """
    layout, time = template.layout, template.time
    far = [line for line in lines if line is not None]
    if not far:
        return template
    sent = layout.micro_batch * layout.seq_len * job.run.model.hidden_size * 2 * layout.dp
    slowest_s = max(sent / line.bytes_per_s for line in far) * layout.micro_batches
    wait_s = max(0.0, slowest_s - time.compute_s) + 2 * sum(line.delay_s for line in far)
    return template._replace(lines_s=wait_s)


def _layout(job: Job, pools: Sequence[Pool], choice: _Choice) -> Layout:
    widest = max(range(len(pools)), key=lambda index: choice.families[index].tp)
    shape = (sum(choice.stages), 1, choice.replicas, choice.micro_batches)
    return layout_of(job, pools[widest], choice.families[widest], shape)


def _by_bound(job: Job, pools: Sequence[Pool], batch: int, lines: Sequence[Line | None]) -> list[_Choice]:
    far_s = _far_seconds(job, batch, lines)
    choices = [
        choice._replace(bound_s=max(choice.bound_s, far_s))
        for chosen in _families(job, pools)
        for choice in _choices(job, _shapes(job, pools, batch, chosen))
    ]
    return sorted(choices, key=lambda choice: choice.bound_s)


class _Shapes(NamedTuple):
    """Of one family for each pool; arrays over numbers of replicas."""

    chosen: tuple[Family, ...]
    stages_PR: Ints
    replicas_R: Ints
    micro_batches_R: Ints
    slowest_R: Floats
    """Least seconds of a micro-batch on the slowest stage."""
    least_s: float
    """Of a micro-batch through all blocks."""


def _shapes(job: Job, pools: Sequence[Pool], batch: int, chosen: tuple[Family, ...]) -> _Shapes:
    """Numbers of replicas with as many stages on each pool as its chips give."""
    num_layers, wanted_pp = job.run.model.num_layers, job.run.parallel.pp
    every = [job.weights(pool, each) for pool, each in zip(pools, chosen, strict=True)]
    whole_P, _, layer_P = np.array(every).T
    width_P = np.array([each.tp * each.cp for each in chosen])
    fits_P = np.array([pool.num_chips for pool in pools]) // width_P
    rounds = -(-batch // chosen[0].micro_batch)
    unit = chosen[0].ep // math.gcd(chosen[0].ep, chosen[0].cp)
    replicas_R = _replicas(fits_P, rounds, unit, num_layers)
    stages_PR = fits_P[:, None] // replicas_R
    total_R = stages_PR.sum(axis=0)
    usable = (stages_PR.min(axis=0) > 0) & (total_R <= num_layers)
    if wanted_pp:
        usable &= total_R == wanted_pp
    stages_PR, replicas_R = stages_PR[:, usable], replicas_R[usable]
    slowest_R = np.maximum(
        1 / (stages_PR / whole_P[:, None]).sum(axis=0), _whole_layers_s(layer_P, stages_PR, num_layers)
    )
    return _Shapes(chosen, stages_PR, replicas_R, -(-rounds // replicas_R), slowest_R, float(whole_P.min()))


def _whole_layers_s(layer_P: Floats, stages_PR: Ints, num_layers: int) -> Floats:
    """Least time t in which the stages hold all layers, each of them whole ones: sum_p S_p floor(t / l_p)
    >= L for the shortest layer's l_p. It is a multiple of one of these. [R]"""
    times_K = np.unique(np.outer(np.arange(1, num_layers + 1), layer_P))
    held_KR = np.floor(times_K[:, None] / layer_P * (1 + 1e-12)) @ stages_PR
    return times_K[np.argmax(held_KR >= num_layers, axis=0)] * (1 - 1e-12)


def _choices(job: Job, shapes: _Shapes) -> Iterator[_Choice]:
    bound_R = (shapes.micro_batches_R - 1) * shapes.slowest_R + shapes.least_s
    for index, bound_s in enumerate(bound_R.tolist()):
        stages = tuple(shapes.stages_PR[:, index].tolist())
        replicas, micro_batches = int(shapes.replicas_R[index]), int(shapes.micro_batches_R[index])
        yield _Choice(bound_s, shapes.chosen, stages, replicas, micro_batches)


def chain_front(job: Job, pools: Sequence[Pool], nodes: float, found: Found) -> Front:
    """All chains over pools of one site. `nodes`: those of the site, which wait for each other. What is
    built, in each order of the pools, goes to `found`.

    Their lines: a is the least time of the slowest stage, c what is left of the least time through all blocks
    and the fixed part of a step.
    """
    every = [_shapes(job, pools, job.batch, chosen) for chosen in _families(job, pools)]
    place = [(index, at) for index, each in enumerate(every) for at in range(len(each.replicas_R))]
    slowest = np.concatenate([np.zeros(0), *(each.slowest_R for each in every)])
    least = np.repeat([each.least_s for each in every], [len(each.slowest_R) for each in every]).astype(float)
    factors, waiting = job.factors[pools[0].chip.name], waiting_of(job, pools[0], nodes)
    idle = min(1.0, factors.bubble) * np.maximum(0.0, least - slowest)

    def build(row: int, count: int) -> tuple[Template, float] | None:
        shapes, at = every[place[row][0]], place[row][1]
        stages = tuple(shapes.stages_PR[:, at].tolist())
        choice = _Choice(0.0, shapes.chosen, stages, int(shapes.replicas_R[at]), count)
        orders = itertools.permutations(range(len(pools)))
        built = [_try(job, [pools[at] for at in order], choice.ordered(order), (), found) for order in orders]
        fits = [each for each in built if each is not None]
        best = min(fits, key=lambda each: each.step_s, default=None)
        return best and (best, waiting * best.time.working_s)

    return Front(
        Lines(
            each_s=waiting * slowest,
            rest_s=waiting * (idle + factors.overhead * factors.total * STEP_S),
            whole=np.concatenate([np.zeros(0), *(_whole(each) for each in every)]),
            cut=np.concatenate([np.zeros(0), *(_cut(pools, each) for each in every)]),
            turn=np.ones(len(place), np.int64),
        ),
        tighten=lambda row: (0.0, 0.0),
        build=build,
        least_in_flight=lambda row: int(every[place[row][0]].stages_PR[:, place[row][1]].sum()),
    )


def _whole(shapes: _Shapes) -> Floats:
    """Sequences in a micro-batch of all replicas."""
    return np.asarray(shapes.chosen[0].micro_batch * shapes.replicas_R, np.float64)


def _cut(pools: Sequence[Pool], shapes: _Shapes) -> Floats:
    """Sequences in a micro-batch of as many replicas as the chips give, in parts of replicas."""
    widths = [each.tp * each.cp for each in shapes.chosen]
    fits_P = [pool.num_chips / width for pool, width in zip(pools, widths, strict=True)]
    return shapes.chosen[0].micro_batch * np.min(np.array(fits_P)[:, None] / shapes.stages_PR, axis=0)


def _far_seconds(job: Job, batch: int, lines: Sequence[Line | None]) -> float:
    """Least seconds of a step on the slowest long line, whatever the layout."""
    sent = batch * job.run.data.seq_len * job.run.model.hidden_size * 2
    return max((sent / line.bytes_per_s for line in lines if line is not None), default=0.0)


def _families(job: Job, pools: Sequence[Pool]) -> Iterator[tuple[Family, ...]]:
    """One family for each pool, alike but for tp. Experts are whole, or cut as all pools' layers are."""
    by_rest: dict[tuple[object, ...], list[list[Family]]] = {}
    for index, pool in enumerate(pools):
        for family in families(job.run, pool.per_node):
            if family.sharding == 3 or family.recompute != "none":
                continue
            rest = (family.cp, family.ep, family.etp == 1, family.micro_batch)
            by_rest.setdefault(rest, [[] for _ in pools])[index].append(family)
    most = max(1, round(MAX_DEGREES ** (1 / len(pools))))
    for columns in by_rest.values():
        cheapest = [
            sorted(column, key=lambda family: _chip_seconds(job, pool, family))[:most]
            for pool, column in zip(pools, columns, strict=True)
        ]
        yield from itertools.product(*cheapest)


def _chip_seconds(job: Job, pool: Pool, family: Family) -> float:
    """Of one sequence."""
    return job.weights(pool, family)[0] * family.tp * family.cp / family.micro_batch


def _replicas(fits_P: Ints, rounds: int, unit: int, num_layers: int) -> Ints:
    """Numbers of replicas worth trying: those at which some pool's stages or the micro-batches change."""
    most = min(int(fits_P.min()), rounds) // unit * unit
    changes = np.concatenate(
        [
            (fits_P[:, None] // np.arange(1, num_layers + 1)).ravel(),
            -(-rounds // np.arange(1, MAX_REPLICAS_TRIED + 1)),
        ]
    )
    usable = np.unique(changes[(changes >= unit) & (changes <= most)] // unit * unit)
    return usable[::-1][:MAX_REPLICAS_TRIED]
