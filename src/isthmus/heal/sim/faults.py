"""The faults a schedule draws from. Each strikes where something waits: at the n-th wait of the run, whoever
it is that waits there.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from isthmus.faults.finding import Finding
from isthmus.faults.terms import FaultClass
from isthmus.heal import messages as m
from isthmus.heal.events import Found, LeaveAsked
from isthmus.heal.sim.process import SimProcess

if TYPE_CHECKING:
    from isthmus.heal.sim.world import World

KINDS = (
    "kill", "kill", "kill", "kill_keeper", "kill_keeper", "kill_both", "kill_node", "kill_many",
    "kill_standby", "stop", "pause", "break", "cut", "cut_pair", "disk", "silent_exit", "error",
    "bad_check", "leave", "nobody_named", "nan",
)  # fmt: skip


class Fault(msgspec.Struct, frozen=True):
    wait: int
    """Strikes at this wait of the run."""
    kind: str
    length_s: float


def draw(world: "World", count: int, kinds: tuple[str, ...]) -> dict[int, list[Fault]]:
    """In bursts now and then, so that faults also meet each other's healing."""
    rng = world.time.random
    planned: dict[int, list[Fault]] = {}
    wait = 0
    for _ in range(count):
        near = rng.random() < 0.5
        wait = wait + rng.randint(1, 40) if near and wait else rng.randint(1, world.expected_waits)
        kind = rng.choice(kinds or KINDS)
        if kind == "leave" and rng.random() < 0.5:
            kind = "kill"
        length_s = rng.choice((0.5, 2.0, 6.0, 15.0)) * rng.uniform(0.5, 1.5)
        planned.setdefault(wait, []).append(Fault(wait, kind, length_s))
    return planned


def strike(world: "World", fault: Fault, actor: Any) -> None:
    rng = world.time.random
    processes = world.alive()
    target = actor if isinstance(actor, SimProcess) else (rng.choice(processes) if processes else None)
    node = target.node if target else rng.choice(list(world.nodes.values()))
    if fault.kind in _ON_WORLD:
        _ON_WORLD[fault.kind](world, fault)
    elif fault.kind in _ON_NODE:
        _ON_NODE[fault.kind](world, fault, node)
    elif target is not None and target.alive:
        _ON_PROCESS[fault.kind](world, fault, target)


# ---- the site


def _kill_keeper(world: "World", fault: Fault) -> None:
    world.keeper.crash()
    world.time.later(min(fault.length_s, 4.0), world.keeper.boot)


def _kill_many(world: "World", fault: Fault) -> None:
    processes = world.alive()
    for process in world.time.random.sample(processes, world.time.random.randint(0, len(processes))):
        process.exit(-9)


def _kill_standby(world: "World", fault: Fault) -> None:
    for process in world.alive():
        if process.form is None:
            process.exit(-9)


def _disk(world: "World", fault: Fault) -> None:
    world.full_until_s = world.time.now_s + fault.length_s


def _leave(world: "World", fault: Fault) -> None:
    world.leaving = True
    world.keeper.feed(LeaveAsked("the person said so", now_s=0.0))


def _nobody_named(world: "World", fault: Fault) -> None:
    _find(world, None, "hang", world.keeper.state.generation)


def _cut_pair(world: "World", fault: Fault) -> None:
    """Two nodes do not reach each other, the keeper reaches both."""
    names = list(world.nodes)
    if len(names) > 1:
        pair = frozenset(world.time.random.sample(names, 2))
        world.cuts.add(pair)
        world.time.later(fault.length_s, world.mend, pair)


# ---- a node


def _kill_node(world: "World", fault: Fault, node: Any) -> None:
    if node is world.keeper_node:
        _kill_keeper(world, fault)
    node.crash(fault.length_s)


def _cut(world: "World", fault: Fault, node: Any) -> None:
    """From all others. The keeper's own node always reaches the keeper."""
    pairs = [frozenset((node.name, other)) for other in world.nodes if other != node.name]
    world.cuts.update(pairs)
    away = (
        [n for n in world.nodes.values() if n is not world.keeper_node]
        if node is world.keeper_node
        else [node]
    )
    for one in away:
        one.cut()
    world.time.later(fault.length_s, _mend_node, world, pairs, away)


def _mend_node(world: "World", pairs: list[frozenset[str]], away: list[Any]) -> None:
    for pair in pairs:
        world.mend(pair)
    for node in away:
        node.mend()


def _bad_check(world: "World", fault: Fault, node: Any) -> None:
    node.bad_check = True


# ---- a process


def _kill(world: "World", fault: Fault, target: SimProcess) -> None:
    target.exit(-9)


def _kill_both(world: "World", fault: Fault, target: SimProcess) -> None:
    target.exit(-9)
    _kill_keeper(world, fault)


def _silent_exit(world: "World", fault: Fault, target: SimProcess) -> None:
    target.exit(0)


def _error(world: "World", fault: Fault, target: SimProcess) -> None:
    text = f"RuntimeError: {fault.wait}"
    target.say(m.Failed(target.step, text, text, 1))
    world.time.later(0.05, target.exit, 1, text)
    target.stop()


def _stop(world: "World", fault: Fault, target: SimProcess) -> None:
    """SIGSTOP: a detector that reads its page finds out, if it is a member."""
    target.stop()
    world.time.later(world.time.some(1.0, 3.0), _watch, world, target)


def _watch(world: "World", target: SimProcess) -> None:
    if target.alive and target.stopped:
        if target.form is not None:
            _find(world, target.form.rank, "hang", target.generation)
        world.time.later(1.0, _watch, world, target)


def _pause(world: "World", fault: Fault, target: SimProcess) -> None:
    target.stop()
    world.time.later(min(fault.length_s, 2.0), target.go_on)


def _break(world: "World", fault: Fault, target: SimProcess) -> None:
    target.interrupt("a blip")


def _nan(world: "World", fault: Fault, target: SimProcess) -> None:
    """Found, and again in who replaced it: the state of all is not to be trusted."""
    if target.form is not None:
        _find(world, target.form.rank, "nan", target.generation)
        world.time.later(fault.length_s, _nan_again, world, target.form.rank)


def _nan_again(world: "World", rank: int) -> None:
    _find(world, rank, "nan", world.keeper.state.generation)


def _find(world: "World", rank: int | None, kind: FaultClass, generation: int) -> None:
    now_s = world.time.now_s
    finding = Finding(kind=kind, rank=rank, what="no progress", began_s=max(0.0, now_s - 2.0), seen_s=now_s)
    world.keeper.feed(Found(finding, generation, now_s=0.0))


_ON_WORLD = {
    "kill_keeper": _kill_keeper,
    "kill_many": _kill_many,
    "kill_standby": _kill_standby,
    "disk": _disk,
    "leave": _leave,
    "nobody_named": _nobody_named,
    "cut_pair": _cut_pair,
}
_ON_NODE = {"kill_node": _kill_node, "cut": _cut, "bad_check": _bad_check}
_ON_PROCESS = {
    "kill": _kill,
    "kill_both": _kill_both,
    "silent_exit": _silent_exit,
    "error": _error,
    "stop": _stop,
    "pause": _pause,
    "break": _break,
    "nan": _nan,
}
