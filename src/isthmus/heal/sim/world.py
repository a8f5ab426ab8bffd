"""One seeded schedule: a site, its faults, and its run to the end."""

from typing import Any

import msgspec

from isthmus.heal.actions import End
from isthmus.heal.policy import Policy
from isthmus.heal.sim import faults, model
from isthmus.heal.sim.checks import Checks
from isthmus.heal.sim.fabric import Fabric
from isthmus.heal.sim.keeper import SimKeeper
from isthmus.heal.sim.process import SimProcess
from isthmus.heal.sim.site import SimNode
from isthmus.sim.invariant import InvariantError, broken, command
from isthmus.sim.timeline import Timeline

LIMIT_S = 900.0
"""Virtual seconds in which every schedule must end."""
POLICY = Policy(
    warm_timeout_s=8.0,
    form_timeout_s=4.0,
    form_timeout_max_s=20.0,
    recover_s=3.0,
    lease_s=10.0,
    check_timeout_s=5.0,
    recheck_s=3.0,
    leave_timeout_s=40.0,
    exit_s=4.0,
    start_timeout_s=60.0,
)
POLICY_ENDS = (
    "ranks were lost while the site was leaving",
    "the site did not end in order",
    "crashes in a row without a step forward",
    "no node can hold a rank",
)
"""Ends that a person would want: what disturbs the run is too much of it."""


class SimConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is not given here comes from the seed."""

    num_faults: int = -1
    faults: tuple[str, ...] = ()
    nodes: tuple[int, ...] = ()
    """Slots of each; the keeper is on the first."""
    spares: int = -1
    world_size: int = 0
    steps: int = 0
    strict: bool = False
    """No end by policy is accepted."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    seed: int
    outcome: str
    reason: str
    world_size: int
    nodes: int
    steps: int
    generations: int
    healed: int
    heal_s: tuple[float, ...]
    """From detection to the last Joined."""
    lost_steps: int
    loads: int
    rollbacks: int
    """Ranks that dropped what they had."""
    faults: tuple[str, ...]
    """kind at the wait it struck."""
    events: int
    virtual_s: float


class World:
    def __init__(self, seed: int, config: SimConfig):
        self.time = Timeline(seed)
        self.config = config
        rng = self.time.random
        self.policy = POLICY
        slots = config.nodes or tuple(rng.choice((1, 2, 2)) for _ in range(rng.choice((1, 2, 2, 3))))
        spares = config.spares if config.spares >= 0 else rng.choice((0, 0, 1))
        self.world_size = config.world_size or sum(slots)
        self.total_steps = config.steps or rng.randint(6, 20)
        self.save_every = rng.choice((3, 5, 8))
        self.copy_every = rng.choice((1, 1, 3))
        self.states = model.reference(self.total_steps)
        self.fabric = Fabric(self)
        self.checks = Checks(self)
        self.nodes = {
            f"n{i}": SimNode(self, f"n{i}", count, spare=i >= len(slots))
            for i, count in enumerate((*slots, *([max(slots)] * spares)))
        }
        self.keeper = SimKeeper(self)
        self.keeper_node = self.nodes["n0"]
        self.checkpoints: dict[int, int] = {}
        self.cuts: set[frozenset[str]] = set()
        self.full_until_s = 0.0
        self.leaving = False
        self.ended: End | None = None
        self.waits = 0
        self.pids = 100
        self.loads = 0
        self.struck: list[str] = []
        self.expected_waits = self.world_size * (30 + 6 * self.total_steps)
        count = config.num_faults if config.num_faults >= 0 else rng.choice((1, 2, 4, 6))
        self.planned = faults.draw(self, count, config.faults)

    # ---- what the parts ask of each other

    def next_pid(self) -> int:
        self.pids += 1
        return self.pids

    def alive(self) -> list[SimProcess]:
        return [process for node in self.nodes.values() for process in node.processes.values()]

    def is_cut(self, one: str, other: str) -> bool:
        return one != other and frozenset((one, other)) in self.cuts

    def mend(self, pair: frozenset[str]) -> None:
        self.cuts.discard(pair)
        self.fabric.mended()

    def disk_works(self) -> bool:
        return self.time.now_s >= self.full_until_s

    def keep(self, step: int, state: int) -> None:
        self.checkpoints[step] = state
        for old in sorted(self.checkpoints)[:-2]:
            del self.checkpoints[old]

    def drop_after(self, step: int) -> None:
        self.checkpoints = {kept: state for kept, state in self.checkpoints.items() if kept <= step}

    def killed(self, name: str) -> None:
        for process in self.alive():
            if process.name == name:
                process.doomed = True

    def awaited(self, actor: Any, name: str) -> None:
        """Something waits: here a fault can strike, once what runs now has come to rest."""
        self.waits += 1
        for fault in self.planned.get(self.waits, ()):
            self.struck.append(f"{fault.kind} at {name}")
            self.time.later(0.0, faults.strike, self, fault, actor)

    def may_fail(self, reason: str) -> bool:
        return not self.config.strict and any(words in reason for words in POLICY_ENDS)

    def run(self) -> None:
        self.keeper.boot()
        self.time.run(LIMIT_S, lambda: self.ended is not None)
        if self.ended is None:
            raise InvariantError(f"the run has not ended after {LIMIT_S:.0f} virtual seconds")
        self.checks.finished()


def simulate(seed: int, config: SimConfig | None = None) -> Report:
    """Runs one schedule to its end.

    Raises InvariantError (an AssertionError) with the invariant, the faults and a command that repeats it.
    """
    config = config or SimConfig()
    world = World(seed, config)
    try:
        world.run()
    except Exception as error:  # whatever the keeper does when it meets the impossible
        again = command("isthmus.heal.sim", seed, config)
        raise broken(seed, world.time.now_s, error, world.struck, again) from error
    assert world.ended is not None
    return Report(
        seed=seed,
        outcome=world.ended.outcome,
        reason=world.ended.reason,
        world_size=world.world_size,
        nodes=len(world.nodes),
        steps=world.checks.high,
        generations=world.keeper.state.generation,
        healed=len(world.checks.healed),
        heal_s=tuple(emit.resumed_s - emit.detected_s for emit in world.checks.healed),
        lost_steps=world.checks.lost,
        loads=world.loads,
        rollbacks=world.checks.rollbacks,
        faults=tuple(world.struck),
        events=world.time.events,
        virtual_s=world.time.now_s,
    )
