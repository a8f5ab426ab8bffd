"""What a group whose chips are concerned can do: each answer is its bands from now on, with the way there."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from isthmus.planner.replan.again import search_again
from isthmus.planner.replan.band import Band, nodes_used
from isthmus.planner.replan.harm import (
    Damage,
    Hit,
    cut_again,
    locate,
    shared_out,
    slowed,
    step_of,
    without_hit,
)
from isthmus.planner.replan.move import Move, move_between, move_to_spares, read_s
from isthmus.planner.replan.situation import Situation


class Answer(NamedTuple):
    """Of one group."""

    bands: list[Band]
    move: Move = Move()
    stands_s: float = 0.0
    """Until it trains."""
    is_changed: bool = False


def left_alone(at: Situation, head: str) -> Answer:
    """Slow chips hold up their stage, in synchronous training everybody. A lost node is replaced by an idle
    one of its kind; without one the group stands until it is repaired, and then starts again."""
    bands, move = list(at.before[head]), Move()
    stands_s = at.gone[head] + _restart_s(at, bands) if head in at.gone else 0.0
    left = dict(at.spares)
    for damage in at.damages.get(head, []):
        hit = locate(at.job, bands, damage)
        if hit is None:
            continue
        if damage.speed:
            bands = slowed(bands, hit, damage.speed)
        elif (spare := _take(left, damage)) is not None:
            move = move.plus(move_to_spares(at.job, bands, hit, spare))
            stands_s = max(stands_s, _recovery_s(at, bands))
        else:
            stands_s = max(stands_s, at.repair_s + _restart_s(at, bands))
    return Answer(bands, move, stands_s + move.seconds)


def on_spares(at: Situation, head: str) -> Answer | None:
    """Idle nodes in the place of slow ones."""
    bands, move, left = list(at.before[head]), Move(), dict(at.spares)
    for damage in at.damages[head]:
        hit = locate(at.job, bands, damage)
        spare = _take(left, damage)
        if hit is None or spare is None or not damage.speed:
            return None
        move = move.plus(move_to_spares(at.job, bands, hit, spare))
    return Answer(bands, move, at.assume.restart + move.seconds, True)


def shifted(at: Situation, head: str) -> Answer | None:
    """Fewer micro-batches for the replicas with slow nodes."""
    bands = _slowed(at, head)
    bands = None if bands is None else shared_out(at.job, bands, at.lines)
    return None if bands is None else changed(at, head, bands)


def dropped(at: Situation, head: str) -> Answer | None:
    """Without the replicas that were hit."""
    bands: list[Band] | None = list(at.before[head])
    for damage in at.damages[head]:
        hit = locate(at.job, bands, damage)
        bands = bands if hit is None else without_hit(at.job, bands, hit, at.lines)
        if bands is None:
            return None
    return changed(at, head, bands)


def regrouped(at: Situation, head: str) -> Answer | None:
    """As many replicas, cut as they are, as there are sound nodes for: those of replicas that were hit fill
    the gaps of others."""
    bands: list[Band] | None = list(at.before[head])
    for damage in at.damages[head]:
        hit = locate(at.job, bands, damage)
        if hit is None:
            continue
        band, others = bands[hit.band], [*bands[: hit.band], *bands[hit.band + 1 :]]
        replicas = _replicas_left(at, band, others)
        if not 0 < replicas < band.layout.dp:
            return None
        fewer = band.with_teams([band.teams[0]._replace(replicas=replicas)])
        bands = shared_out(at.job, [*bands[: hit.band], fewer, *bands[hit.band + 1 :]], at.lines)
        if bands is None:
            return None
    return changed(at, head, bands)


def _replicas_left(at: Situation, band: Band, others: Sequence[Band]) -> int:
    chips: dict[tuple[str, str, float, int], int] = {}
    for segment in band.teams[0].segments:
        pool = segment.pool
        key = (pool.site, pool.name, pool.speed, pool.per_node)
        chips[key] = chips.get(key, 0) + segment.stages * segment.tp * band.layout.cp
    fitting = band.layout.dp
    for (site, name, speed, per_node), needed in chips.items():
        there = sum(each.nodes for each in at.pools[site] if (each.name, each.speed) == (name, speed))
        free = (there - nodes_used(others, site, name)) * per_node
        fitting = min(fitting, max(0, free) // needed)
    return fitting // band.unit * band.unit


def recut(at: Situation, head: str) -> Answer | None:
    """The same stages with the layers cut again, each band that has slow chips."""
    bands = _slowed(at, head)
    for index, band in enumerate(bands or []):
        if bands is not None and band not in at.before[head]:
            bands = cut_again(at.job, bands, index, at.lines)
    if bands is None or [each.ends for each in bands] == [each.ends for each in at.before[head]]:
        return None
    return changed(at, head, bands)


def planned_again(at: Situation, head: str, limit_s: float, bands: Sequence[Band]) -> Answer | None:
    """A new layout of the group's sites, if one takes less than `limit_s`, which is what `bands` take.

    Where an answer is as fast as the group was before, there is none: the running layout was the best on more
    and faster chips."""
    has_grown = bool(set(at.groups[head]) & set(at.back))
    if not has_grown and limit_s <= step_of(at.job, at.before[head], at.lines) * (1 + 1e-9):
        return None
    found = search_again(at.job, at.pools, at.lines, at.groups[head], bands, limit_s)
    return None if found is None else changed(at, head, found)


LAYOUT_KEPT: dict[str, tuple[Callable[[Situation, str], Answer | None], str]] = {
    "use spares": (on_spares, "idle nodes take the place of the slow ones"),
    "shift the batch": (shifted, "fewer micro-batches for the replicas with slow nodes"),
    "drop replicas": (dropped, "the other replicas take the batch of those that were hit"),
    "regroup replicas": (regrouped, "as many replicas of the same cut as there are sound nodes for"),
    "cut the layers again": (recut, "the same stages, with fewer layers for the slow chips"),
}


def changed(at: Situation, head: str, bands: list[Band]) -> Answer:
    """With what it takes to get there. After a loss also its detection, and reading back what was lost."""
    move = move_between(at.job, at.before.get(head, []), bands)
    is_lost = any(not damage.speed for damage in at.damages.get(head, []))
    begin_s = _recovery_s(at, bands) if is_lost else at.assume.restart
    return Answer(bands, move, begin_s + move.seconds, True)


def best_kept(at: Situation, head: str, answers: Sequence[Answer]) -> tuple[float, list[Band]]:
    """The least step that is known already, of answers that can train now."""
    ready = [each for each in answers if each.stands_s < at.repair_s]
    steps = [(step_of(at.job, each.bands, at.lines), each.bands) for each in ready]
    return min(steps, key=lambda each: each[0], default=(math.inf, []))


def _slowed(at: Situation, head: str) -> list[Band] | None:
    bands = list(at.before[head])
    for damage in at.damages[head]:
        hit: Hit | None = locate(at.job, bands, damage)
        if not damage.speed:
            return None
        bands = bands if hit is None else slowed(bands, hit, damage.speed)
    return bands


def _take(left: dict[tuple[str, str], int], damage: Damage) -> int | None:
    """That many idle nodes, if there are."""
    place = (damage.site, damage.chip)
    if left.get(place, 0) < damage.nodes:
        return None
    left[place] -= damage.nodes
    return damage.nodes


def _recovery_s(at: Situation, bands: Sequence[Band]) -> float:
    """From a failure to the first step, without moving (`failures.job.SiteJob.recovery_s`)."""
    return at.assume.detect + _restart_s(at, bands)


def _restart_s(at: Situation, bands: Sequence[Band]) -> float:
    return at.assume.restart + read_s(at.job, bands, at.plan.num_params, at.assume.write.bytes_per_s)
