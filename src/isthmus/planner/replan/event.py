"""What happens to a fleet while it trains: typed events, their short text form, and the fleet after them."""

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import fields, replace

from isthmus.errors import InfeasibleError, InputError
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.ranges import AtLeast1, Positive
from isthmus.spec.suggest import nearest
from isthmus.units import Bandwidth, Seconds

_Kept = TypeVar("_Kept")


class Slow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="slow"):
    """Nodes that compute slower than before."""

    site: str
    chip: str = ""
    """Of the nodes, as the fleet calls it; may be left out where the site has one kind."""
    nodes: AtLeast1 = 1
    speed: Positive
    """Relative to the speed that the fleet file gives these nodes."""
    stage: Annotated[int, Meta(ge=-1)] = -1
    """Of the pipeline, where the first of them works; -1: not known, and the slowest stage is assumed."""
    lasts: Seconds = Seconds(0.0)
    """From now on; 0: to the horizon."""


class Lost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lost"):
    """Nodes that are gone."""

    site: str
    chip: str = ""
    nodes: AtLeast1 = 1
    lasts: Seconds = Seconds(0.0)
    """Until they are repaired; 0: the time that is assumed for a repair."""


class LostSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lost-site"):
    """A whole site that is gone."""

    site: str
    lasts: Seconds = Seconds(0.0)
    """Until it is back; 0: the time that is assumed for a repair."""


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="link"):
    """A site's link has `factor` of its bandwidth."""

    site: str
    factor: Positive
    lasts: Seconds = Seconds(0.0)
    """0: to the horizon."""


class Trunk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="trunk"):
    """A shared line has `factor` of its bandwidth."""

    name: str
    factor: Positive
    lasts: Seconds = Seconds(0.0)
    """0: to the horizon."""


class Back(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="back"):
    """A site, or some of its nodes, can be used again, as the fleet file has it."""

    site: str


Event = Slow | Lost | LostSite | Link | Trunk | Back
KINDS: dict[str, type[Event]] = {
    "slow": Slow, "lost": Lost, "lost-site": LostSite, "link": Link, "trunk": Trunk, "back": Back,
}  # fmt: skip
EXAMPLES = (
    "slow site=west chip=a800 nodes=1 speed=0.5", "lost site=west chip=a800 nodes=2", "lost-site west",
    "link site=west factor=0.5", "trunk name=x factor=0.5", "back site=west",
)  # fmt: skip


def parse_event(text: str) -> Event:
    """From its short form, such as 'slow site=west nodes=2 speed=0.5 lasts=6h'; a word alone is the site's
    (or the trunk's) name. Raises InputError that names what is wrong and what was probably meant."""
    kind, *words = text.split() or [""]
    if kind not in KINDS:
        hint = nearest(kind, KINDS) or f"for example: {'; '.join(EXAMPLES)}"
        raise InputError(f"there is no event '{kind}'", where=f"event '{text}'", hint=hint)
    struct = KINDS[kind]
    known = [field.name for field in fields(struct)]
    values: dict[str, str | float] = {}
    for word in words:
        name, equals, value = word.rpartition("=")
        name = name if equals else known[0]
        if name not in known or name in values:
            hint = nearest(name, known) or f"{kind} takes {', '.join(known)}"
            fault = "is given twice" if name in values else "is not known"
            raise InputError(f"'{name}' {fault}", where=f"event '{text}'", hint=hint)
        values[name] = value
    return _converted(struct, values, text)


def _converted(struct: type[Event], values: dict[str, str | float], text: str) -> Event:
    def decode(kind: type, value: object) -> object:
        return Seconds.parse(value) if kind is Seconds else value  # type: ignore[arg-type]

    example = next(each for each in EXAMPLES if KINDS[each.split()[0]] is struct)
    try:
        event = msgspec.convert(values, struct, strict=False, dec_hook=decode)
    except (msgspec.ValidationError, ValueError) as error:
        raise InputError(str(error), where=f"event '{text}'", hint=f"for example: {example}") from None
    endless = [name for name in ("speed", "factor") if not isfinite(getattr(event, name, 0.0))]
    if endless:
        hint = f"for example: {example}"
        raise InputError(f"{endless[0]} is not finite", where=f"event '{text}'", hint=hint)
    return event


def shown(event: Event) -> str:
    """The short form."""
    parts = [(field.name, getattr(event, field.name), field.default) for field in fields(event)]
    told = [f"{name}={_told(value)}" for name, value, default in parts if value != default]
    return " ".join([str(event.__struct_config__.tag), *told])


def _told(value: object) -> str:
    return str(value).replace(" ", "") if isinstance(value, Seconds) else f"{value}"


def apply(event: Event, fleet: FleetSpec) -> FleetSpec:
    """The fleet after it. Raises InputError where the event names what the fleet does not have."""
    match event:
        case Slow() | Lost():
            site = _found(event.site, fleet.sites, "site")
            nodes = _nodes_after(event, site)
            if not nodes:
                return apply(LostSite(site=event.site), fleet)
            return replace(fleet, sites={**fleet.sites, event.site: replace(site, nodes=nodes)})
        case LostSite():
            _found(event.site, fleet.sites, "site")
            return _without(event.site, fleet)
        case Link():
            site = _found(event.site, fleet.sites, "site")
            link = replace(site.link, bandwidth=Bandwidth(site.link.bandwidth * event.factor))
            return replace(fleet, sites={**fleet.sites, event.site: replace(site, link=link)})
        case Trunk():
            trunk = _found(event.name, fleet.trunks, "trunk")
            halved = replace(trunk, bandwidth=Bandwidth(trunk.bandwidth * event.factor))
            return replace(fleet, trunks={**fleet.trunks, event.name: halved})
        case Back():
            _found(event.site, fleet.sites, "site")
            return fleet


def chip_of(event: Slow | Lost, site: SiteSpec) -> str:
    """The kind of chip whose nodes it is about."""
    kinds = list(dict.fromkeys(chip for node in site.nodes for chip in node.chips))
    where = f"site {event.site}"
    if not event.chip and len(kinds) > 1:
        hint = f"add chip={kinds[0]}, or another of {', '.join(kinds)}"
        raise InputError("the site has nodes of several kinds", where=where, hint=hint)
    if event.chip and event.chip not in kinds:
        hint = nearest(event.chip, kinds) or f"it has {', '.join(kinds)}"
        raise InputError(f"there is no chip '{event.chip}'", where=where, hint=hint)
    return event.chip or kinds[0]


def _nodes_after(event: Slow | Lost, site: SiteSpec) -> list[NodeSpec]:
    chip, left = chip_of(event, site), event.nodes
    there = sum(node.count for node in site.nodes if chip in node.chips)
    if left > there:
        hint = f"at most {there}; `lost-site {event.site}` if all of it is gone"
        raise InputError(f"{left} nodes of {there} with {chip}", where=f"site {event.site}", hint=hint)
    nodes: list[NodeSpec] = []
    for node in site.nodes:
        taken = min(left, node.count) if chip in node.chips else 0
        left -= taken
        if node.count > taken:
            nodes.append(replace(node, count=node.count - taken))
        if taken and isinstance(event, Slow):
            nodes.append(replace(node, count=taken, speed=node.speed * event.speed))
    return nodes


def _without(site: str, fleet: FleetSpec) -> FleetSpec:
    sites = {name: spec for name, spec in fleet.sites.items() if name != site}
    if not sites:
        raise InfeasibleError(
            "no site is left to train",
            where=f"site {site}",
            hint="add a site to the fleet, or wait until it is back",
        )
    trunks = {
        name: replace(trunk, sites=[each for each in trunk.sites if each != site])
        for name, trunk in fleet.trunks.items()
    }
    return replace(fleet, sites=sites, trunks={name: each for name, each in trunks.items() if each.sites})


def apply_all(events: Iterable[Event], fleet: FleetSpec) -> FleetSpec:
    for event in events:
        fleet = apply(event, fleet)
    return fleet


def _found(name: str, known: dict[str, _Kept], what: str) -> _Kept:
    if name not in known:
        hint = nearest(name, known) or f"the fleet has {', '.join(known) or 'none'}"
        raise InputError(f"there is no {what} '{name}'", where="event", hint=hint)
    return known[name]


def lasting(events: Sequence[Event]) -> float:
    """Seconds until all that is slow is as before; 0: not known of some of it."""
    ends = [float(event.lasts) for event in events if isinstance(event, Slow | Link | Trunk)]
    return max(ends) if ends and all(ends) else 0.0
