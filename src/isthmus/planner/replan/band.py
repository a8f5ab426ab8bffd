"""A running layout as bands of replicas, so that what becomes of it can be computed when its chips change.

A band is a set of replicas that are cut alike: their gradients lie alike, so they exchange them stage by
stage. Its teams are replicas on equally fast chips that run the same number of micro-batches in a step. The
pipelines of a plan that differ only in replicas and micro-batches are one band.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.layout import Layout
from isthmus.planner.plan import PipelinePlan, SitePlan, StagePlan
from isthmus.planner.search.chain import Line, over_lines
from isthmus.planner.search.pack import Packing, cross_exchange_s
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.template import Job, Segment, Template, problem_of, time_of
from isthmus.planner.split import score

Pools = Mapping[str, Sequence[Pool]]
"""By site."""
Lines = Mapping[tuple[str, str], Line]
_Key = tuple[str, str, int, int, float]


class Team(NamedTuple):
    """Replicas of a band with the same chips and the same part of the batch."""

    segments: tuple[Segment, ...]
    replicas: int
    micro_batches: int


class Band(NamedTuple):
    """Replicas that are cut alike. `layout.dp` is all of them."""

    layout: Layout
    ends: tuple[int, ...]
    """As in `Split.ends_S`: of each round, where chunks are several."""
    teams: tuple[Team, ...]

    @property
    def unit(self) -> int:
        """Replicas that share experts: they wait for each other in each micro-batch, and come and go
        together."""
        return self.layout.expert_unit

    def in_units(self, replicas: int) -> int:
        """So many replicas, or as many more as it takes to have whole units."""
        return min(self.layout.dp, math.ceil(replicas / self.unit) * self.unit)

    @property
    def sequences(self) -> int:
        """Of a step."""
        return sum(team.replicas * team.micro_batches for team in self.teams) * self.layout.micro_batch

    def with_teams(self, teams: Iterable[Team]) -> "Band":
        """Of other teams; those without replicas are left out."""
        kept = tuple(team for team in teams if team.replicas > 0)
        layout = replace(self.layout, dp=sum(team.replicas for team in kept))
        return self._replace(layout=layout, teams=kept)


def bands_of(job: Job, site: SitePlan, pools: Pools) -> list[Band]:
    """A site's pipelines. `pools`: of the fleet that the plan was made for. Raises InputError where the plan
    has no layout, or chips that the fleet lacks."""
    if not site.pipelines:
        hint = "`isthmus plan --out FILE` makes plans that have one"
        raise InputError("the plan does not say how the model lies on the chips", where=site.name, hint=hint)
    left = {pool.key: pool.num_chips for each in pools.values() for pool in each}
    bands: list[Band] = []
    for pipeline in site.pipelines:
        band = _band(job, pipeline, pools, left)
        same = [index for index, other in enumerate(bands) if _alike(band, other)]
        if same:
            other = bands[same[0]]
            bands[same[0]] = other.with_teams([*other.teams, *band.teams])
        else:
            bands.append(band)
    return bands


def _alike(left: Band, right: Band) -> bool:
    def key(band: Band) -> tuple[object, ...]:
        chips = [(each.pool.site, each.pool.name, each.tp, each.stages) for each in band.teams[0].segments]
        return replace(band.layout, dp=1, micro_batches=1), band.ends, chips

    return key(left) == key(right)


def _band(job: Job, pipeline: PipelinePlan, pools: Pools, left: dict[_Key, int]) -> Band:
    layout = pipeline.layout
    segments: list[Segment] = []
    for (site, chip, tp), stages in itertools.groupby(
        pipeline.stages, key=lambda stage: (stage.site, stage.chip, stage.tp)
    ):
        count = len(list(stages))
        pool = _pool(site, chip, pools, left, count * tp * layout.cp * layout.dp)
        segments.append(Segment(pool, tp, count))
    team = Team(tuple(segments), layout.dp, layout.micro_batches)
    band = Band(layout, _ends(pipeline.stages), (team,))
    return band._replace(layout=_as_searched(job, band, pipeline)) if layout.recompute == "full" else band


def _pool(site: str, chip: str, pools: Pools, left: dict[_Key, int], chips: int) -> Pool:
    """The fastest one of that name that has room; the plan does not tell which it is."""
    named = sorted((each for each in pools.get(site, ()) if each.name == chip), key=lambda each: -each.speed)
    roomy = [pool for pool in named if left[pool.key] >= chips]
    if not roomy:
        hint = "give the fleet that the plan was made for, without the event"
        raise InputError(f"the plan has more chips '{chip}' than site '{site}'", where="plan", hint=hint)
    left[roomy[0].key] -= chips
    return roomy[0]


def _ends(stages: Sequence[StagePlan]) -> tuple[int, ...]:
    return tuple(stage.chunks[0][1] if stage.chunks else stage.end_layer for stage in stages)


def _as_searched(job: Job, band: Band, pipeline: PipelinePlan) -> Layout:
    """A plan tells 'full' where a split recomputes whole layers, whatever the other layers do: of the layouts
    that this can stand for, the one whose stages take the time that the plan says."""
    planned_s = sum(stage.forward_s + stage.backward_s for stage in pipeline.stages)

    def off(layout: Layout) -> float:
        template = template_of(job, band._replace(layout=layout), band.teams[0], {})
        return abs(float(template.split.time_S.sum()) - planned_s) if template else math.inf

    return min((replace(band.layout, recompute=each) for each in ("none", "selective")), key=off)


def template_of(job: Job, band: Band, team: Team, lines: Lines) -> Template | None:
    """One team as if all replicas were like it; None if it does not fit the memory."""
    layout = replace(band.layout, micro_batches=team.micro_batches)
    problem = problem_of(job, team.segments, layout)
    cut = score(problem, band.ends)
    if cut is None:
        return None
    time = time_of(job, team.segments, layout, cut)
    limits = tuple(int(limit) for limit in problem.limit_S)  # type: ignore[union-attr]
    whole = Template(layout, team.segments, cut, time, limits)
    return over_lines(whole, job, _lines(team.segments, lines))


def _lines(segments: Sequence[Segment], lines: Lines) -> list[Line | None]:
    ends = [(a.pool.site, b.pool.site) for a, b in itertools.pairwise(segments)]
    return [lines.get(each) if each[0] != each[1] else None for each in ends]


def packing_of(job: Job, bands: Sequence[Band], lines: Lines) -> Packing | None:
    """What the bands do together: replicas of a band wait for its slowest team. None if one does not fit."""
    templates: list[Template] = []
    heads: list[Template] = []
    for band in bands:
        teams = [(team, template_of(job, band, team, lines)) for team in band.teams]
        whole = [template for _, template in teams if template is not None]
        if len(whole) < len(teams) or not whole:
            return None
        heads.append(max(whole, key=lambda each: each.step_s))
        templates += [
            each._replace(layout=replace(each.layout, dp=team.replicas))
            for (team, _), each in zip(teams, whole, strict=True)
        ]
    if not templates:
        return None
    step_s = max(each.step_s for each in templates) + cross_exchange_s(job, heads)
    return Packing(tuple(templates), step_s, step_s)


def band_of(template: Template) -> Band:
    """As a search finds it."""
    layout = template.layout
    ends = tuple(int(end) for end in template.split.ends_S)
    return Band(layout, ends, (Team(template.segments, layout.dp, layout.micro_batches),))


def nodes_used(bands: Iterable[Band], site: str, chip: str) -> int:
    """Nodes of one kind that the bands have."""
    chips, per_node = 0, 1
    for band in bands:
        for team in band.teams:
            for segment in team.segments:
                if (segment.pool.site, segment.pool.name) == (site, chip):
                    chips += segment.stages * segment.tp * band.layout.cp * team.replicas
                    per_node = segment.pool.per_node
    return math.ceil(chips / per_node)
