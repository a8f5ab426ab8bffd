"""What a rank does, as the protocol has it."""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from isthmus.heal import messages as m
from isthmus.heal.agree import Agreement, agree
from isthmus.heal.sim import model

if TYPE_CHECKING:
    from isthmus.heal.sim.process import SimProcess, Wait

CHUNKS = 3
DIAL_S = 1.5
COMM_TIMEOUT_S = 6.0
SAVE_WRITES = 3
FINAL_TRIES = 200

Life = Generator["Wait", Any, Any]


def life(me: "SimProcess") -> Life:
    from isthmus.heal.sim.process import BrokenError

    some = me.world.time.some
    yield ("spawning", some(0.1, 0.6), False)
    me.say(m.Hello(me.name, me.pid))
    yield ("warming", some(0.2, 2.0), False)
    me.say(m.Warm())
    while True:
        while me.next_form is None:
            yield ("waiting for a place", None, False)
        me.form, me.next_form = me.next_form, None
        me.interrupted = ""
        try:
            yield from take_part(me, me.form)
            break
        except BrokenError as error:
            me.world.fabric.close(me.endpoint)
            me.endpoint, me.group = "", ()
            me.say(m.Broken(me.generation, me.step, str(error)))
            yield ("breaking", some(0.0, 0.02), False)
    me.say(m.Leaving("leave" if me.leave_asked else "done"))
    yield ("leaving", some(0.01, 0.2), False)


def take_part(me: "SimProcess", form: m.Form) -> Life:
    yield from make_group(me, form)
    yield from agree_on_state(me, form)
    me.say(m.Joined(form.generation, me.step))
    yield ("joining", me.world.time.some(0.0, 0.02), True)
    yield from train(me, form)


# ---- the group


def is_current(me: "SimProcess", pair: m.Posted) -> bool:
    """Of the group that is being made, not of one before."""
    newest = me.next_form or me.form
    return newest is not None and pair.generation == newest.generation


def pair_key(generation: int, key: str) -> tuple[int, str]:
    return generation, key


def make_group(me: "SimProcess", form: m.Form) -> Life:
    me.endpoint = f"{me.name}#{form.generation}"
    me.world.fabric.open[me.endpoint] = me
    yield ("listening", me.world.time.some(0.0, 0.05), True)
    me.say(m.Posted(form.generation, f"rank/{form.rank}", me.endpoint.encode()))
    keys = [pair_key(form.generation, f"rank/{r}") for r in range(form.world_size)]
    me.pairs[keys[form.rank]] = me.endpoint.encode()
    while not all(key in me.pairs for key in keys):
        yield ("posting", None, True)
    me.group = tuple(me.pairs[key].decode() for key in keys)
    me.world.checks.composed(me, form, me.group)
    for other in me.group:
        yield from connect(me, other)


def connect(me: "SimProcess", other: str) -> Life:
    from isthmus.heal.sim.process import BrokenError

    until_s = me.world.time.now_s + DIAL_S
    while True:
        yield ("connecting", me.world.time.some(0.001, 0.1), True)
        if me.world.fabric.reaches(me.endpoint, other):
            return
        if me.world.time.now_s > until_s:
            raise BrokenError(f"cannot connect to {other}")


def exchange(me: "SimProcess", what: tuple[Any, ...], value: Any) -> Life:
    """An all-gather: what everybody gave, by rank."""
    from isthmus.heal.sim.process import BrokenError

    me.world.time.later(0.0, arrive, me, me.waits, me.endpoint, (me.group, what), value)
    values = yield (f"exchange {what[0]}", COMM_TIMEOUT_S, True)
    if values is None:
        raise BrokenError(f"{what[0]}: no answer within {COMM_TIMEOUT_S} s")
    return values


def arrive(me: "SimProcess", wait: int, endpoint: str, key: Any, value: Any) -> None:
    if me.alive and me.waits == wait:
        me.world.fabric.arrive(me, endpoint, key, value)


# ---- state


def agree_on_state(me: "SimProcess", form: m.Form) -> Life:
    if form.at_most_step >= 0:
        roll_back(me, form.at_most_step)
    agreement = agree_on(me, (yield from exchange(me, ("agree", 0), me.step)))
    if agreement.step < 0:
        yield ("loading", me.world.time.some(0.05, 0.3), True)
        me.take(*newest(me, form.at_most_step))
        me.world.checks.loaded(me)
        agreement = agree_on(me, (yield from exchange(me, ("agree", 1), me.step)))
    me.agreed(agreement)
    if agreement.behind:
        yield from copy(me, form, agreement)


def roll_back(me: "SimProcess", step: int) -> None:
    """What is newer is dropped for good."""
    if me.step > step:
        me.step = -1
    me.node.copies = {name: held for name, held in me.node.copies.items() if held[0] <= step}
    me.world.drop_after(step)


def agree_on(me: "SimProcess", steps: Sequence[int]) -> Agreement:
    return agree(steps)


def newest(me: "SimProcess", at_most_step: int) -> tuple[int, int]:
    found = [(0, model.SEEDED), *me.world.checkpoints.items(), *me.node.copies.values()]
    return max(held for held in found if at_most_step < 0 or held[0] <= at_most_step)


def copy(me: "SimProcess", form: m.Form, agreement: Agreement) -> Life:
    """In chunks; what came takes the place of what was there only when it is whole."""
    taken = 0
    for chunk in range(CHUNKS):
        part = me.state & chunk_mask(chunk) if form.rank == agreement.donor else 0
        values = yield from exchange(me, ("copy", chunk), part)
        taken |= values[agreement.donor]
    if form.rank in agreement.behind:
        me.take(agreement.step, taken)


def chunk_mask(chunk: int) -> int:
    return ((1 << 22) - 1) << (22 * chunk)


# ---- steps


def train(me: "SimProcess", form: m.Form) -> Life:
    leave = False
    while me.step < me.world.total_steps and not leave:
        yield ("computing", me.world.time.some(0.05, 0.3), False)
        given = (me.step, me.state, me.leave_asked)
        values = yield from exchange(me, ("step", me.step), given)
        yield ("committing", me.world.time.some(0.0, 0.03), False)
        me.apply()
        leave = any(value[2] for value in values)
        yield from copy_out(me)
        if form.rank == 0 and me.step % me.world.save_every == 0:
            yield from save(me)
    if form.rank == 0:
        for _ in range(FINAL_TRIES):
            if (yield from save(me)):
                break
            yield ("saving again", 0.5, False)
    yield from exchange(me, ("saved", me.step), None)


def copy_out(me: "SimProcess") -> Life:
    """To the node's memory, in the place of the copy before the last."""
    if me.step % me.world.copy_every == 0:
        yield ("copying out", me.world.time.some(0.0, 0.02), False)
        me.node.copies[me.name] = (me.step, me.state)


def save(me: "SimProcess") -> Life:
    """Under another name until it is whole."""
    for write in range(SAVE_WRITES):
        yield (f"saving {write}", me.world.time.some(0.01, 0.1), False)
        if not me.world.disk_works():
            return False
    yield ("renaming", me.world.time.some(0.0, 0.02), False)
    if not me.world.disk_works():
        return False
    me.world.keep(me.step, me.state)
    return True
