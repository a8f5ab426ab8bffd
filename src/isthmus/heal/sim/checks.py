"""What must hold whatever happens."""

from typing import TYPE_CHECKING, Any

from isthmus.heal.actions import Emit, Tell
from isthmus.heal.agree import Agreement
from isthmus.heal.messages import Form
from isthmus.heal.state import KeeperState
from isthmus.sim.invariant import hold

if TYPE_CHECKING:
    from isthmus.heal.sim.process import SimProcess
    from isthmus.heal.sim.world import World

KEPT = 400
"""Entries a keeper's state may hold in all its lists."""


class Checks:
    def __init__(self, world: "World"):
        self.world = world
        self.forms: dict[int, tuple[tuple[int, ...], int, dict[int, str]]] = {}
        """Generation -> (fresh, world size, rank -> process) as told."""
        self.composition: dict[int, tuple[str, ...]] = {}
        self.stepping = 0
        """Newest generation that exchanged a step."""
        self.high = 0
        """Highest step that was ever done, and since memory was last lost."""
        self.current = 0
        self.lost = 0
        self.rollbacks = 0
        self.healed: list[Emit] = []

    # ---- generations

    def told(self, action: Tell) -> None:
        form = action.message
        if not isinstance(form, Form):
            return
        record = self.world.keeper.record
        hold(
            record is not None and record.generation >= form.generation,
            f"generation {form.generation} is told before it is on disk",
        )
        newest = max(self.forms, default=0)
        hold(form.generation >= newest, f"generation {form.generation} is told after {newest}")
        fresh, size, ranks = self.forms.setdefault(form.generation, (form.fresh, form.world_size, {}))
        same = (fresh, size) == (form.fresh, form.world_size)
        hold(
            same and ranks.setdefault(form.rank, action.process) == action.process,
            f"generation {form.generation} has two compositions",
        )

    def composed(self, process: "SimProcess", form: Form, group: tuple[str, ...]) -> None:
        stray = [end for end in group if not end.endswith(f"#{form.generation}")]
        hold(not stray, f"{process.name} connects to {stray} in generation {form.generation}")
        known = self.composition.setdefault(form.generation, group)
        hold(known == group, f"generation {form.generation} is {known} and {group}")

    # ---- steps

    def exchanged(self, group: tuple[str, ...], what: tuple[Any, ...], values: list[Any]) -> None:
        if what[0] != "step":
            return
        generation = int(group[0].rsplit("#", 1)[1])
        hold(
            generation >= self.stepping,
            f"generation {generation} takes a step after generation {self.stepping} took one",
        )
        self.stepping = generation
        states = {value[:2] for value in values}
        hold(len(states) == 1, f"members of generation {generation} step from unlike states: {states}")

    def holds(self, process: "SimProcess") -> None:
        right = 0 <= process.step <= self.world.total_steps and (
            process.state == self.world.states[process.step]
        )
        hold(right, f"{process.name} holds something else as the state of step {process.step}")

    def committed(self, process: "SimProcess") -> None:
        self.high = max(self.high, process.step)
        self.current = max(self.current, process.step)

    def agreed(self, process: "SimProcess", agreement: Agreement) -> None:
        """No process that is in reach has a later state than the group goes on from."""
        limit = process.form.at_most_step if process.form else -1
        hold(
            limit < 0 or agreement.step <= limit,
            f"generation {process.generation} goes on from step {agreement.step}, told to go back to {limit}",
        )
        best = self._survivors() if limit < 0 else -1
        hold(
            agreement.step >= best,
            f"generation {process.generation} goes on from step {agreement.step}, a survivor has {best}",
        )
        if limit >= 0:
            self.current = agreement.step
            self.rollbacks += 1
        elif agreement.step >= 0:
            self.lost = max(self.lost, self.current - agreement.step)
            self.current = agreement.step

    def loaded(self, process: "SimProcess") -> None:
        self.world.loads += 1

    def _survivors(self) -> int:
        def counts(process: "SimProcess") -> bool:
            here = process.node.linked() and not process.node.silent
            return here and not process.doomed and not process.stopped and not process.left

        return max((p.step for p in self.world.alive() if counts(p)), default=-1)

    # ---- the keeper

    def decided(self, state: KeeperState) -> None:
        kept = sum(
            len(getattr(state, name))
            for name in ("nodes", "processes", "joined", "spoke", "broken", "posted", "gone", "left",
                         "unsure", "restarts", "errors", "cures")
        )  # fmt: skip
        hold(kept < KEPT, f"the keeper's state grows: {kept} entries")
        hold(not state.outbox, "an action stayed in the state")

    def emitted(self, emit: Emit) -> None:
        if emit.kind != "healed":
            return
        times = (emit.began_s, emit.detected_s, emit.diagnosed_s, emit.regrouped_s, emit.resumed_s)
        hold(list(times[:2]) == sorted(times[:2]), f"times of healing run backwards: {times}")
        hold(emit.regrouped_s <= emit.resumed_s, f"times of healing run backwards: {times}")
        self.healed.append(emit)

    def finished(self) -> None:
        """The end that was asked for, with the state of an undisturbed run on disk."""
        world = self.world
        assert world.ended is not None
        if world.ended.outcome == "failed":
            hold(world.may_fail(world.ended.reason), f"the run failed: {world.ended.reason}")
            return
        step = max(world.checkpoints, default=-1)
        if world.leaving and not self.stepping:
            return
        hold(step >= 0, "the run is done and nothing is saved")
        hold(world.checkpoints[step] == world.states[step], f"what is saved of step {step} is not its state")
        hold(
            step >= self.current,
            f"the run is done, step {self.current} was, and step {step} is what is saved",
        )
        hold(
            world.leaving or step == world.total_steps,
            f"the run is done after {step} of {world.total_steps} steps",
        )
