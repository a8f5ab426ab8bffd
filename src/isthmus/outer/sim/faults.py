"""The faults a schedule draws from. Each ends by itself, so that every schedule can finish."""

from typing import TYPE_CHECKING

import msgspec

from isthmus.outer.member.state import StopAsked

if TYPE_CHECKING:
    from isthmus.outer.sim.world import World


class Fault(msgspec.Struct, frozen=True):
    when_s: float
    kind: str
    target: str
    length_s: float


SERVER = ("crash_server", "pause_server", "full_disk")
SITE = ("crash_client", "crash_ranks", "pause_client", "leave")
LINK = ("cut", "partition", "slow_link")
NUMERIC = ("nan", "bit_flip")
KINDS = SERVER + SITE + LINK + NUMERIC
HARMLESS = (
    "crash_server",
    "pause_server",
    "full_disk",
    "cut",
    "partition",
    "slow_link",
    "pause_client",
    "bit_flip",
)
"""Those that leave membership and leases alone while the site timeout is long: strict results stay
bit-equal."""


def draw(world: "World", count: int, kinds: tuple[str, ...]) -> list[Fault]:
    """Spread over the first part of the run, in bursts now and then, so that faults also meet each other."""
    rng = world.time.random
    faults: list[Fault] = []
    when_s = 0.0
    for _ in range(count):
        near = rng.random() < 0.4
        when_s = when_s + rng.random() * 4 if near else rng.uniform(0.0, 0.9) * world.length_s
        kind = rng.choice(kinds or KINDS)
        target = rng.choice(world.servers if kind in SERVER else world.sites).name
        faults.append(Fault(when_s, kind, target, rng.choice((1.0, 4.0, 10.0, 25.0)) * rng.uniform(0.5, 1.5)))
    return sorted(faults, key=lambda fault: fault.when_s)


def strike(world: "World", fault: Fault) -> None:
    server = next((server for server in world.servers if server.name == fault.target), None)
    site = next((site for site in world.sites if site.name == fault.target), None)
    if server is not None:
        _strike_server(world, fault)
    elif site is not None and fault.kind in LINK:
        _strike_links(world, fault)
    elif site is not None and site.process.alive:
        _strike_site(world, fault)


def _strike_server(world: "World", fault: Fault) -> None:
    server = next(server for server in world.servers if server.name == fault.target)
    if fault.kind == "pause_server":
        server.process.pause(fault.length_s)
    elif fault.kind == "full_disk":
        server.disk.full_until_s = world.time.now_s + fault.length_s
    elif server.process.alive:
        server.crash()
        world.time.at(world.time.now_s + fault.length_s, world.revive, server)


def _strike_links(world: "World", fault: Fault) -> None:
    site = next(site for site in world.sites if site.name == fault.target)
    rng = world.time.random
    links = list(site.links.values())
    if rng.random() < 0.5:
        links = links[:1]
    for link in links:
        if fault.kind == "slow_link":
            link.slow_until_s = world.time.now_s + fault.length_s
        else:
            link.cut(fault.length_s if fault.kind == "partition" else 0.0)
    if fault.kind == "partition" and rng.random() < 0.4 and len(world.servers) > 1:
        world.servers[1].links["primary"].cut(fault.length_s)


def _strike_site(world: "World", fault: Fault) -> None:

    site = next(site for site in world.sites if site.name == fault.target)
    match fault.kind:
        case "crash_client":
            site.crash()
            world.time.at(world.time.now_s + fault.length_s, world.revive, site)
        case "crash_ranks":
            if site.ranks.process.alive:
                site.crash_ranks()
                site.process.later(fault.length_s, site.ranks.boot)
        case "pause_client":
            site.process.pause(fault.length_s)
        case "leave":
            site.feed(StopAsked("leave"))
        case "nan":
            site.poison_next = True
        case "bit_flip":
            site.flip_next = True
