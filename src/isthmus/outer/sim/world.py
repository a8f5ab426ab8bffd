"""One seeded schedule: a fleet, its faults, and what must hold whatever happens."""

import random
from typing import Literal

import msgspec

from isthmus.outer.messages import Terms
from isthmus.outer.protocol.state import ServerConfig
from isthmus.outer.sim import faults
from isthmus.outer.sim.checks import Checks
from isthmus.outer.sim.network import Link
from isthmus.outer.sim.server import SimServer
from isthmus.outer.sim.site import SimSite
from isthmus.sim.invariant import InvariantError, broken, command
from isthmus.sim.timeline import Timeline

EXTRA = {"strict": 1.25, "elastic": 1.5}
"""Rounds in the budget for one asked for: a disturbed round may take up more than one window."""
PATIENCE = 12.0
"""A schedule that takes this many times its undisturbed length is stuck."""


class SimConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is not given here comes from the seed."""

    num_sites: int = 0
    rounds: int = 20
    num_faults: int = 5
    mode: Literal["", "elastic", "strict"] = ""
    standby: Literal["", "yes", "no"] = ""
    faults: tuple[str, ...] = ()
    """Kinds to draw from; empty: all of them."""
    shape_seed: int = -1
    """Draws fleet and run from this seed, so that only the faults differ between seeds; -1: from the seed."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    seed: int
    mode: str
    sites: int
    versions: int
    contributions: int
    faults: int
    discards: int
    refreshes: int
    resets: int
    promotions: int
    epochs: int
    events: int
    virtual_s: float
    final: str
    """Hash of the last published parameters."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Fleet and run of one schedule."""

    step_s: tuple[float, ...]
    terms: Terms
    quorum: int
    has_standby: bool
    site_timeout_s: float


def draw_shape(rng: random.Random, config: SimConfig) -> Shape:
    sites = config.num_sites or rng.choice((3, 3, 3, 4))
    mode = config.mode or rng.choice(("elastic", "elastic", "strict"))
    inner_steps = rng.randint(2, 5)
    batch = rng.randint(1, 3)
    has_standby = config.standby == "yes" or (config.standby == "" and rng.random() < 0.35)
    terms = Terms(
        mode=mode,
        inner_steps=inner_steps,
        delay=rng.randint(0, inner_steps) if mode == "strict" else -1,
        budget=int(config.rounds * EXTRA[mode]) * sites * inner_steps * batch,
        batch_size=batch,
        outage_reserve_s=rng.choice((0.0, 20.0)),
        heartbeat_s=4.5,
    )
    slowest = 1.0 if mode == "strict" else 3.0
    step_s = tuple(rng.uniform(1.0, 1.0 + slowest) for _ in range(sites))
    timeout_s = 200.0 if mode == "strict" and config.shape_seed >= 0 else 15.0
    return Shape(
        step_s=step_s,
        terms=terms,
        quorum=rng.randint(1, sites),
        has_standby=has_standby,
        site_timeout_s=timeout_s,
    )


class World:
    def __init__(self, seed: int, config: SimConfig):
        self.time = Timeline(seed)
        self.config = _Timeouts()
        self.checks = Checks()
        shape_rng = self.time.random if config.shape_seed < 0 else random.Random(config.shape_seed)
        self.shape = draw_shape(shape_rng, config)
        names = [f"site{index}" for index in range(len(self.shape.step_s))]
        self.sites = [SimSite(self, name, step) for name, step in zip(names, self.shape.step_s, strict=True)]
        self.servers = [SimServer(self, "primary")]
        if self.shape.has_standby:
            self.servers.append(SimServer(self, "standby", is_standby=True))
        self.done = ""
        self.ended: SimServer | None = None
        chaos = self.time.random.choice((0.0, 0.0, 0.05))
        for server in self.servers:
            for site in self.sites:
                self._join(site, server, chaos)
        if self.shape.has_standby:
            self._join(self.servers[1], self.servers[0], chaos)
        terms = self.shape.terms
        self.length_s = terms.budget / terms.batch_size / sum(1 / step for step in self.shape.step_s)
        if terms.mode == "strict":
            self.length_s = EXTRA[terms.mode] * config.rounds * terms.inner_steps * max(self.shape.step_s)
        self.planned = faults.draw(self, config.num_faults, config.faults)

    def _join(self, dialer: SimSite | SimServer, listener: SimServer, chaos: float) -> None:
        link = Link(self.time, dialer, listener, self.time.random.uniform(0.02, 0.2), chaos)
        dialer.links[listener.name] = link
        listener.links[dialer.name] = link

    def server_config(self, name: str) -> ServerConfig:
        return ServerConfig(
            name=name,
            terms=self.shape.terms,
            sites=tuple(site.name for site in self.sites),
            quorum=self.shape.quorum,
            site_timeout_s=self.shape.site_timeout_s,
            standby_timeout_s=self.config.standby_timeout_s,
        )

    def sync_s(self) -> float:
        return 0.005 + 0.03 * self.time.random.random()

    def left(self, site: SimSite, reason: str) -> None:
        """A site's client has gone for good, or until its operator starts it again."""
        if reason != "budget":
            self.time.at(self.time.now_s + 3.0, self.revive, site)

    def revive(self, process: SimSite | SimServer) -> None:
        if not process.process.alive:
            process.boot()

    def finish(self, server: SimServer, reason: str) -> None:
        self.done = reason
        self.ended = server

    def run(self) -> None:
        for process in (*self.servers, *self.sites):
            process.boot()
        for server in self.servers:
            for link in set(server.links.values()):
                link.dial()
        for fault in self.planned:
            self.time.at(fault.when_s, faults.strike, self, fault)
        limit_s = PATIENCE * self.length_s + 300.0
        self.time.run(limit_s, lambda: bool(self.done))
        if self.done != "budget" or self.ended is None:
            raise InvariantError(f"the budget is not done after {limit_s:.0f} virtual seconds")
        self.checks.finished(self.ended, self.shape.terms.budget)


class _Timeouts(msgspec.Struct, frozen=True):
    standby_timeout_s: float = 6.0


def simulate(seed: int, config: SimConfig | None = None) -> Report:
    """Runs one schedule to the end of its budget.

    Raises InvariantError (an AssertionError) with the invariant, the faults and a command that repeats it.
    """
    config = config or SimConfig()
    world = World(seed, config)
    try:
        world.run()
    except Exception as error:  # whatever a machine does when it meets the impossible
        told = [
            f"{fault.when_s:7.1f} s {fault.kind} {fault.target} {fault.length_s:.1f} s"
            for fault in world.planned
        ]
        again = command("isthmus.outer.sim", seed, config)
        raise broken(seed, world.time.now_s, error, told, again) from error
    assert world.ended is not None
    book = world.ended.state.book
    return Report(
        seed=seed,
        mode=world.shape.terms.mode,
        sites=len(world.sites),
        versions=book.version,
        contributions=len(world.checks.residual),
        faults=len(world.planned),
        discards=len(world.checks.discarded),
        refreshes=world.checks.refreshes,
        resets=world.checks.resets,
        promotions=world.checks.promotions,
        epochs=book.epoch,
        events=world.time.events,
        virtual_s=world.time.now_s,
        final=book.hash,
    )
