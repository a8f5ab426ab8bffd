"""The table of reasons: at each place the chosen plan, the next best ones, and what did not fit.

A place is the chips that one pipeline runs on. Where several pipelines share a site's batch, a plan of one
place is compared with the chosen plan of that place only, and by its seconds for a sequence, as each of them
was timed for the share of the batch that those chips were given.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from isthmus.planner.cost.convention import ISTHMUS
from isthmus.planner.layout import Layout
from isthmus.planner.plan import Considered
from isthmus.planner.search.fleet import Group, Survey
from isthmus.planner.search.judge import lost_to
from isthmus.planner.search.pack import joined_s
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.share import share_batch, strength
from isthmus.planner.search.template import Miss, Template
from isthmus.units import Seconds

MOST_CONSIDERED = 14
TOGETHER = "no faster together with the other chips"
"""Of a plan that would be faster for the share of the batch that it was timed for."""


_Chips = tuple[str, str]
"""(site, chip) as they are told."""


class _Place(NamedTuple):
    """Chips of one pipeline, and what was found for them, best first."""

    chosen: list[Template]
    ran: list[Template]
    missed: list[tuple[str, Miss]]


def considered_of(found: Survey, groups: Sequence[Group]) -> list[Considered]:
    """At most about MOST_CONSIDERED rows, place by place; each place's chosen plan comes first."""
    places = [(group, place) for group in groups for place in _places(found, group).values()]
    share = max(2, MOST_CONSIDERED // max(1, len(places)))
    rows: list[Considered] = []
    for group, place in places:
        rows += _rows(found, group, place, share)
    return rows


def _places(found: Survey, group: Group) -> dict[frozenset[_Chips], _Place]:
    """By the chips; those of the chosen plan first."""
    packing = group.packing
    places: dict[frozenset[_Chips], _Place] = {}

    def at(chips: Iterable[_Chips]) -> _Place:
        return places.setdefault(frozenset(chips), _Place([], [], []))

    for template in packing.templates:
        at(_chips_of(template)).chosen.append(template)
    for name, each in packing.groups.items():
        if isinstance(each, Template):
            at(_chips_of(each)).ran.append(each)
        elif math.isfinite(each.shortfall.extra_bytes):
            at(_chips_named(found, group, each.where.split(", "))).missed.append((name, each))
    return places


def _label(pool: Pool) -> _Chips:
    return pool.site, pool.name if pool.speed == 1 else f"{pool.name} at {pool.speed:g}"


def _chips_of(template: Template) -> list[_Chips]:
    """In the order of its stages."""
    return [_label(segment.pool) for segment in template.segments]


def _chips_named(found: Survey, group: Group, names: Sequence[str]) -> list[_Chips]:
    """A miss knows its chips by their names alone."""
    pools = [pool for site in group.sites for pool in found.pools[site]]
    return [next(_label(pool) for pool in pools if pool.name == name) for name in names]


def _told(chips: Sequence[_Chips]) -> str:
    """'jinan h800 + a800', 'jinan h800 + qingdao ascend910b': in the order of the stages."""
    named: list[str] = []
    before = ""
    for site, chip in dict.fromkeys(chips):
        named.append(chip if site == before else f"{site} {chip}")
        before = site
    return " + ".join(named)


def _rows(found: Survey, group: Group, place: _Place, share: int) -> Iterator[Considered]:
    """Two thirds of them ran."""
    chosen = [plan_name(template) for template in place.chosen]
    for template in place.chosen:
        yield Considered(
            name=plan_name(template),
            place=_told(_chips_of(template)),
            step_s=template.step_s,
            sequences=_chosen_share(found, group, template),
            slower=0.0,
            chosen=True,
        )
    families = {_family(template) for template in place.chosen}
    others = [each for each in place.ran if _family(each) not in families and plan_name(each) not in chosen]
    rows = sorted((_row(found, group, place, each) for each in others), key=_order)
    missed = sorted(place.missed, key=lambda item: item[1].shortfall.extra_bytes)
    room = max(0, share - len(place.chosen))
    num_missed = min(len(missed), max((room + 1) // 3, room - len(rows)))
    yield from rows[: room - num_missed]
    for what, miss in missed[:num_missed]:
        name, chips = _missed_name(what, miss)
        yield Considered(
            name=name,
            place=_told(_chips_named(found, group, chips)),
            why=str(miss).replace(f" on {miss.where}", ""),
        )


def _missed_name(group: str, miss: Miss) -> tuple[str, list[str]]:
    """'tp 2, pp 3 (1 a800 + 2 h800)' as `plan_name` writes it, and the chips in their order."""
    degrees, _, stages = group.removesuffix(")").partition(" (")
    if " + " not in stages:
        return degrees, miss.where.split(", ")
    counts = [part.split(" ", 1) for part in stages.split(" + ")]
    pp = "+".join(count for count, _ in counts)
    return re.sub(r"\bpp \d+", f"pp {pp}", degrees), [chip for _, chip in counts]


def _order(row: Considered) -> tuple[float, str]:
    return (math.inf if row.slower is None else row.slower, row.name)


def _row(found: Survey, group: Group, place: _Place, template: Template) -> Considered:
    """Against the chosen plan of its place, or against the whole of the site's plan."""
    packing, job = group.packing, found.job
    sequences = _given(found, group, template)
    slowest = max(packing.templates, key=lambda each: each.step_s)
    used = {segment.pool.key for each in packing.templates for segment in each.segments}
    if place.chosen:
        chosen = place.chosen[0]
        scale = _chosen_share(found, group, chosen) / sequences
        slower = scale * template.step_s / chosen.step_s - 1
        why = lost_to(template, chosen, scale) if slower > 0 else TOGETHER
    elif used.isdisjoint(segment.pool.key for segment in template.segments):
        both = share_batch(job, [*packing.templates, template])
        slower = joined_s(job, both) / packing.step_s - 1
        why = f"left idle: with it a step takes {Seconds(joined_s(job, both))}"
    else:
        scale = job.batch / sequences
        slower = scale * template.step_s / packing.step_s - 1
        why = lost_to(template, slowest, scale) if slower > 0 else TOGETHER
    return Considered(
        name=plan_name(template),
        place=_told(_chips_of(template)),
        step_s=template.step_s,
        sequences=sequences,
        slower=slower,
        why=why,
    )


def _chosen_share(found: Survey, group: Group, template: Template) -> float:
    """Sequences that it is chosen for: its part of what all replicas have room for in a step."""
    room = sum(_room(each.layout) for each in group.packing.templates)
    return found.job.batch * _room(template.layout) / room


def _room(layout: Layout) -> int:
    return layout.dp * layout.replica_batch


def _given(found: Survey, group: Group, template: Template) -> float:
    """Sequences that it was timed for: its chips' share by their strength, or the whole batch."""
    pools = [pool for site in group.sites for pool in found.pools[site]]
    if found.job.convention is ISTHMUS:
        return _room(template.layout)
    mine = {segment.pool.key for segment in template.segments}
    power = [pool.num_chips * strength(pool) for pool in pools]
    own = sum(each for pool, each in zip(pools, power, strict=True) if pool.key in mine)
    share = max(1, round(found.job.batch * own / sum(power)))
    return min(share, _room(template.layout))


def plan_name(template: Template) -> str:
    """'tp 4, pp 12 x 2, ep 8, dp 32, micro-batch 1'; 'tp 8+4, pp 3+2' over two pools."""
    layout, split = template.layout, template.split
    tps = [segment.tp for segment in template.segments]
    tps = tps if len(set(tps)) > 1 else tps[:1]
    stages = "+".join(str(segment.stages) for segment in template.segments)
    again = int(split.recompute_S.sum()) * split.virtual
    parts = [
        f"tp {'+'.join(map(str, tps))}",
        f"pp {stages}" + (f" x {layout.virtual}" if layout.virtual > 1 else ""),
        f"cp {layout.cp}" if layout.cp > 1 else "",
        f"ep {layout.ep}" if layout.ep > 1 else "",
        f"etp {layout.etp}" if layout.ep > 1 and layout.etp != layout.tp else "",
        f"dp {layout.dp}",
        f"micro-batch {layout.micro_batch}",
        "selective" if layout.recompute == "selective" else "",
        f"recompute {again}" if again else "",
        "sharded" if layout.sharding == 3 else "",
    ]
    return ", ".join(part for part in parts if part)


def _family(template: Template) -> tuple[object, ...]:
    """What a group of plans has in common."""
    layout = template.layout
    cut = tuple((segment.pool.key, segment.tp, segment.stages) for segment in template.segments)
    return cut, layout.cp, layout.ep, layout.sharding == 3, layout.micro_batch
