"""Planted bugs, which the simulator must find (`isthmus.sim.mutants`)."""

from importlib import import_module

from msgspec.structs import replace

from isthmus.heal import groups, hear
from isthmus.heal import state as states
from isthmus.heal.actions import AnyAction, Record, Remember, Tell
from isthmus.heal.agree import Agreement
from isthmus.heal.events import AnyEvent, Exited
from isthmus.heal.messages import Form, Posted
from isthmus.heal.sim import keeper, model, rank, site
from isthmus.heal.sim.process import BrokenError, SimProcess
from isthmus.heal.sim.world import SimConfig, World
from isthmus.heal.state import KeeperState, Process
from isthmus.heal.trouble import live, say
from isthmus.sim.mutants import Mutant

# these modules hold functions of the same name
_apply = import_module("isthmus.heal.apply")
_decide = import_module("isthmus.heal.decide").decide


# ---- the keeper


def _record_last(state: KeeperState, event: AnyEvent) -> tuple[KeeperState, list[AnyAction]]:
    state, actions = _decide(state, event)
    return state, sorted(actions, key=lambda action: isinstance(action, Remember))


def _forget_number(record: Record, world: World, now_s: float) -> KeeperState:
    state = states.recover("site", record, world.policy, now_s)
    return replace(state, generation=max(0, record.generation - 1))


def _forget_members(record: Record, world: World, now_s: float) -> KeeperState:
    state = states.initial("site", world.world_size, world.policy)
    return replace(state, now_s=now_s, boot=record.boot + 1, generation=record.generation)


def _same_number(state: KeeperState, places: tuple[str, ...]) -> KeeperState:
    if state.generation and state.trouble and state.trouble.ladder == "retry":
        state = replace(state, generation=state.generation - 1)
    return _open(state, places)


_open = groups._open


def _pass_on_all(state: KeeperState, process: Process, message: Posted) -> KeeperState:
    state = replace(state, posted=(*state.posted, (process.id, message)))
    return say(state, *(Tell(other.id, message) for other in live(state) if other.id != process.id))


def _never_fenced(state: KeeperState) -> bool:
    return False


def _zero_is_done(state: KeeperState, event: Exited) -> KeeperState:
    process = state.processes.get(event.process)
    if event.code == 0 and process is not None and process.stage == "member":
        state = replace(state, left=(*state.left, process.id), left_s=state.now_s)
    return _exited(state, event)


_exited = _apply._HANDLERS[Exited]


# ---- the ranks


def _donor_is_first(steps: list[int]) -> Agreement:
    step = max(steps)
    return Agreement(step, 0, tuple(r for r, held in enumerate(steps) if held != step))


def _lowest_step(steps: list[int]) -> Agreement:
    step = min((held for held in steps if held >= 0), default=-1)
    return Agreement(step, steps.index(step), tuple(r for r, held in enumerate(steps) if held != step))


def _always(me: SimProcess, pair: Posted) -> bool:
    return True


def _any_generation(generation: int, key: str) -> tuple[int, str]:
    return 0, key


def _copy_what_came(me: SimProcess, form: Form, agreement: Agreement) -> rank.Life:
    """A donor that dies is taken for one that has nothing more to send."""
    taken = 0
    for chunk in range(rank.CHUNKS):
        part = me.state & rank.chunk_mask(chunk) if form.rank == agreement.donor else 0
        try:
            values = yield from rank.exchange(me, ("copy", chunk), part)
        except BrokenError:
            break
        taken |= values[agreement.donor]
    if form.rank in agreement.behind:
        me.take(agreement.step, taken)


def _save_in_place(me: SimProcess) -> rank.Life:
    me.world.keep(me.step, 0)
    return (yield from _save(me))


_save = rank.save


def _keep_all(me: SimProcess, step: int) -> None:
    return None


def _apply_twice(me: SimProcess) -> None:
    """A step that was applied before its group broke is applied again."""
    me.state = model.advance(me.state, me.step) if me.generation > 1 else me.state
    _apply_once(me)


_apply_once = SimProcess.apply


def _no_lease(node: site.SimNode, cut_s: float) -> None:
    return None


_APART = SimConfig(nodes=(0, 2), spares=1, world_size=2, faults=("cut",), num_faults=2, steps=20)
"""The keeper's node holds no rank, so a cut leaves the whole group on the other side."""
_FORGETFUL = SimConfig(faults=("kill_many", "kill"), nodes=(2,), spares=0, num_faults=4)
_RESTARTS = SimConfig(faults=("kill", "kill_keeper", "kill_both"), num_faults=6)

MUTANTS = (
    Mutant(
        name="number_forgotten",
        bug="a restarted keeper uses the number of its last generation once more",
        swaps=((keeper, "recover", _forget_number),),
        config=_RESTARTS,
    ),
    Mutant(
        name="number_reused",
        bug="a retry keeps the number of the generation that broke",
        swaps=((groups, "_open", _same_number),),
    ),
    Mutant(
        name="form_before_record",
        bug="members hear of a generation before it is on disk",
        swaps=((keeper, "decide", _record_last),),
    ),
    Mutant(
        name="members_forgotten",
        bug="a restarted keeper knows of no member",
        swaps=((keeper, "recover", _forget_members),),
        config=_RESTARTS,
    ),
    Mutant(
        name="old_pairs",
        bug="addresses of an earlier generation are passed on and taken",
        swaps=(
            (hear._HEARD, Posted, _pass_on_all),
            (rank, "is_current", _always),
            (rank, "pair_key", _any_generation),
        ),
        config=replace(_RESTARTS, faults=("kill",)),
    ),
    Mutant(
        name="no_fence",
        bug="a group is made while the one before may still run where nobody sees it",
        swaps=((groups, "_fenced", _never_fenced),),
        config=_APART,
    ),
    Mutant(
        name="no_lease",
        bug="an agent that cannot reach its keeper lets its ranks run on",
        swaps=((site.SimNode, "_cut_lease", _no_lease),),
        config=replace(_APART, steps=120),
    ),
    Mutant(
        name="silent_exit_is_done",
        bug="a rank that exits with 0 and said nothing is taken for one that is done",
        swaps=((_apply._HANDLERS, Exited, _zero_is_done),),
        config=SimConfig(faults=("silent_exit",)),
    ),
    Mutant(
        name="donor_is_rank_0",
        bug="state is copied from rank 0, wherever it stands",
        swaps=((rank, "agree", _donor_is_first),),
    ),
    Mutant(
        name="lowest_step",
        bug="survivors go back to the lowest step among them and do again what is done",
        swaps=((rank, "agree", _lowest_step),),
    ),
    Mutant(
        name="dead_donor",
        bug="a donor that died is not noticed",
        swaps=((rank, "copy", _copy_what_came),),
        config=replace(_RESTARTS, faults=("kill",)),
    ),
    Mutant(
        name="rollback_ignored",
        bug="a rank told to go back keeps what it has",
        swaps=((rank, "roll_back", _keep_all),),
        config=SimConfig(faults=("nan",), num_faults=2, steps=30),
    ),
    Mutant(
        name="applied_twice",
        bug="a step is applied a second time after healing",
        swaps=((SimProcess, "apply", _apply_twice),),
    ),
    Mutant(
        name="saved_in_place",
        bug="a checkpoint can be seen before it is whole",
        swaps=((rank, "save", _save_in_place),),
        config=_FORGETFUL,
    ),
)
