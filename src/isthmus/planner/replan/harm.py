"""What an event does to a site's bands, and what can be done without a new layout.

Which chips of a running plan an event hits is a matter of ranks: they are laid out innermost first as tp,
cp, dp, pp (`cost.network`), so a node holds one stage of per_node / (tp cp) replicas, and the next node the
same stage of the next ones. Where the event does not name the stage, the slowest one of these chips is
assumed, for which the step has the least to spare.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.replan.band import Band, Lines, Team, packing_of, template_of
from isthmus.planner.search.share import shares
from isthmus.planner.search.template import Job, Segment, Template, problem_of
from isthmus.planner.split import split


class Damage(NamedTuple):
    """Of like nodes at a site."""

    site: str
    chip: str
    nodes: int
    speed: float
    """Relative to before; 0: lost."""
    stage: int = -1


class Hit(NamedTuple):
    """Where a damage shows."""

    band: int
    first: int
    stages: int
    replicas: int
    """Of each of these stages."""


def locate(job: Job, bands: Sequence[Band], damage: Damage) -> Hit | None:
    """The first band on such chips; None if no band uses them."""
    for index, band in enumerate(bands):
        team = band.teams[0]
        here = [
            stage
            for stage, segment in enumerate(_by_stage(team.segments))
            if (segment.pool.site, segment.pool.name) == (damage.site, damage.chip)
        ]
        if here:
            return _hit(job, index, band, here, damage)
    return None


def _hit(job: Job, index: int, band: Band, here: Sequence[int], damage: Damage) -> Hit:
    stage = damage.stage if damage.stage >= 0 else _slowest(job, band, here)
    if stage not in here:
        hint = f"stages {here[0]} to {here[-1]} are there"
        raise InputError(f"stage {stage} is not on {damage.chip}", where=f"site {damage.site}", hint=hint)
    segment = _by_stage(band.teams[0].segments)[stage]
    replicas = math.ceil(damage.nodes * segment.pool.per_node / (segment.tp * band.layout.cp))
    stages = min(math.ceil(replicas / band.layout.dp), here[-1] - here[0] + 1)
    first = min(stage, here[-1] + 1 - stages)
    return Hit(index, first, stages, band.in_units(replicas))


def _by_stage(segments: Sequence[Segment]) -> list[Segment]:
    return [segment for segment in segments for _ in range(segment.stages)]


def _slowest(job: Job, band: Band, here: Sequence[int]) -> int:
    template = template_of(job, band, band.teams[0], {})
    return here[0] if template is None else max(here, key=lambda stage: float(template.split.time_S[stage]))


def slowed(bands: Sequence[Band], hit: Hit, speed: float) -> list[Band]:
    """The hit stages on chips of that speed; all else as it was. Replicas with sharded weights gather them
    together in each micro-batch, so all of them are as slow."""
    band = bands[hit.band]
    first, *others = band.teams
    taken = first.replicas if band.layout.sharding == 3 else min(hit.replicas, first.replicas)
    slow = Team(_with_slow(first.segments, hit, speed), taken, first.micro_batches)
    kept = first._replace(replicas=first.replicas - taken)
    return _replaced(bands, hit.band, band.with_teams([kept, *others, slow]))


def _with_slow(segments: Sequence[Segment], hit: Hit, speed: float) -> tuple[Segment, ...]:
    stages: list[Segment] = []
    for stage, segment in enumerate(_by_stage(segments)):
        is_hit = hit.first <= stage < hit.first + hit.stages
        pool = replace(segment.pool, speed=segment.pool.speed * speed) if is_hit else segment.pool
        stages.append(segment._replace(pool=pool))
    runs = itertools.groupby(stages, key=lambda each: (each.pool.key, each.tp))
    return tuple(run[0]._replace(stages=len(run)) for run in (list(each) for _, each in runs))


def without_hit(job: Job, bands: Sequence[Band], hit: Hit, lines: Lines) -> list[Band] | None:
    """The others take the batch of the replicas that were hit; None if none are left or memory lacks."""
    band = bands[hit.band]
    first, *others = band.teams
    if hit.replicas > first.replicas:
        return None
    left = band.with_teams([first._replace(replicas=first.replicas - hit.replicas), *others])
    return shared_out(job, _replaced(bands, hit.band, left if left.teams else None), lines)


def shared_out(job: Job, bands: Sequence[Band], lines: Lines) -> list[Band] | None:
    """Micro-batches dealt anew so that all teams end at about the same time; a team that gets none stands
    idle. Replicas with sharded weights go in lockstep, so such a band keeps one number for all."""
    whole = [(band, template_of(job, band, team, lines), team) for band in bands for team in band.teams]
    if not whole or any(template is None for _, template, _ in whole):
        return None
    own = [_owned(template, team) for _, template, team in whole if template is not None]
    counts = iter(shares(own, job.batch))
    dealt = [_dealt(band, counts) for band in bands]
    return _in_whole_units([band for band in dealt if band.teams])


def _owned(template: Template, team: Team) -> Template:
    return template._replace(layout=replace(template.layout, dp=team.replicas))


def _dealt(band: Band, counts: Iterator[int]) -> Band:
    teams = [team._replace(micro_batches=next(counts)) for team in band.teams]
    if band.layout.sharding == 3:
        most = max(team.micro_batches for team in teams)
        teams = [team._replace(micro_batches=most) for team in teams]
    return band.with_teams([team for team in teams if team.micro_batches > 0])


def _in_whole_units(bands: list[Band]) -> list[Band] | None:
    """Expert groups must come out whole."""
    wrong = [band for band in bands if band.layout.dp % band.unit]
    return None if wrong or not bands else bands


def cut_again(job: Job, bands: Sequence[Band], index: int, lines: Lines) -> list[Band] | None:
    """The stages of a band as they are, the layers cut anew: the exact best for its slowest team, which the
    others follow as their gradients must lie alike. Shares of the batch are dealt anew as well."""
    band = bands[index]
    slow = band.teams[-1]
    cut = split(problem_of(job, slow.segments, replace(band.layout, micro_batches=slow.micro_batches)))
    if cut is None:
        return None
    anew = band._replace(ends=tuple(int(end) for end in np.asarray(cut.ends_S)))
    even = _replaced(bands, index, anew)
    options = [each for each in (even, shared_out(job, even, lines)) if each is not None]
    return min(options, key=lambda each: step_of(job, each, lines))


def step_of(job: Job, bands: Sequence[Band], lines: Lines) -> float:
    """Seconds; infinite if it does not fit."""
    packing = packing_of(job, bands, lines)
    return packing.step_s if packing else math.inf


def _replaced(bands: Sequence[Band], index: int, band: Band | None) -> list[Band]:
    kept = [band] if band is not None else []
    return [*bands[:index], *kept, *bands[index + 1 :]]
