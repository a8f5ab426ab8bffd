"""The inner loop: one site trains, step by step, on what its feed hands out.

Every rank runs the same loop. Rank 0 is also the site's lead: it asks the feed, writes journal and
checkpoints, and decides what is due; its decision at each step boundary reaches the others as an order.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from isthmus import chips
from isthmus.comm.collective import Collective, GroupBrokenError
from isthmus.data.loader import rank_rows
from isthmus.errors import UnreachableError
from isthmus.faults.inject.kinds import Point
from isthmus.faults.page import PageWriter, Phase
from isthmus.heal.agree import agree
from isthmus.journal.store import DiskStore
from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer
from isthmus.parallel.bits import HASHED_PARTS
from isthmus.train.batches import Batches, Rows
from isthmus.train.checkpoint import CHECKPOINTS, drop_after, newest_step
from isthmus.train.export import check_start
from isthmus.train.feed import Done, Feed, Start, Work
from isthmus.train.job import Crew, Job, Outcome
from isthmus.train.lead import Lead
from isthmus.train.learner import Learner
from isthmus.train.memory import TOLD_EVERY, device_memory
from isthmus.train.orders import Order, share_order
from isthmus.train.schedule import learning_rate
from isthmus.train.standing import Standing, take_state
from isthmus.train.state_copies import Held, StateCopies
from isthmus.weights.folder import open_model
from isthmus.weights.source import Floats

OpenFeed = Callable[[Learner, Start], Feed]
"""Makes rank 0's feed, once the model holds its first (or resumed, or the other ranks') parameters."""


class Keeping(Protocol):
    """How a rank is kept alive. Without, a group that breaks ends it."""

    def rejoin(self, error: UnreachableError, step: int) -> None:
        """The group broke: take a place in the next one. Raises UnreachableError where none is to come."""
        ...

    def joined(self, step: int, lost_steps: int = 0) -> None:
        """This rank stands at the group's common step; so many after it are done again."""
        ...

    @property
    def memory(self) -> Path | None:
        """Folder for copies of the state that outlive this process; None: there are none."""
        ...

    @property
    def at_most_step(self) -> int:
        """Roll back: a state after this step is to be dropped; -1: no."""
        ...


def train(
    crew: Crew,
    open_feed: OpenFeed,
    keeping: Keeping | None = None,
    finish: Callable[[], None] | None = None,
) -> Outcome:
    """Train until the feed is done or leaving is asked. All ranks of the site call this.

    Resumes from the site's newest sound checkpoint; the number of ranks may have changed since. `open_feed`
    and `finish`, called before the ranks part, are rank 0's. Where the group breaks and `keeping` finds the
    rank a place in another, training goes on from the furthest step that any rank has done. Raises
    IsthmusError where gradients stay non-finite, and CorruptError where no checkpoint is sound.
    """
    rank = Rank(crew, open_feed, keeping, finish)
    while True:
        try:
            rank.join()
            return rank.steps()
        except GroupBrokenError as error:
            if keeping is None:
                raise
            keeping.rejoin(error, rank.standing.position.step)


class Rank:
    """One rank's part: `join` after each forming of the group, then `steps` until the end."""

    def __init__(
        self,
        crew: Crew,
        open_feed: OpenFeed,
        keeping: Keeping | None,
        finish: Callable[[], None] | None,
    ):
        self._crew, self._open_feed, self._finish = crew, open_feed, finish
        self._keeping = keeping
        folder = keeping.memory if keeping else None
        self._copies = StateCopies(folder, crew) if folder else None
        self.standing = Standing()
        self._lead: Lead | None = None
        self._outcome = Outcome("", float("nan"), float("nan"))

    def join(self) -> None:
        """Come to stand where the furthest rank stands; where none has any state, where the newest of copies
        and checkpoints stands.
        """
        group, learner, standing = self._crew.group, self._crew.learner, self.standing
        learner.restart()
        if self._copies:
            self._copies.regrouped(group)
        self._roll_back()
        agreed = agree(group.gather(standing.held_step))
        is_lead, is_cold = group.rank == 0, agreed.step < 0
        donor = self._resume() if is_cold else agreed.donor
        if is_cold or agreed.behind:
            is_even = group.rank == donor or (not is_cold and group.rank not in agreed.behind)
            take_state(group, learner, standing, donor, is_even=is_even)
        if is_lead and self._lead is None:
            self._lead = self._new_lead(is_successor=True)
        if self._lead:
            self._lead.caught_up()
        learner.page.regrouped(getattr(group, "generation", 0), standing.position.step)
        if self._keeping:
            lost = self._copies.resumed(standing.position.step) if self._copies and is_cold else 0
            self._keeping.joined(standing.position.step, lost)

    def _resume(self) -> int:
        """No rank has state. Returns the rank that has it now: one whose node has a copy that is newer than
        rank 0's copy and its checkpoints, else rank 0, which has resumed.
        """
        group, held = self._crew.group, self._copies.held() if self._copies else None
        self._drop_lead()
        found = group.gather(held.step if held else -1)
        (donor,) = group.share([self._choose_donor(found) if group.rank == 0 else 0])
        if group.rank == donor == 0:
            self._lead = self._new_lead(is_successor=False, held=held)
        elif group.rank == donor:
            assert held is not None
            held.restore(self._crew.learner, self.standing)
        self.standing.has_state = group.rank == donor
        return donor

    def _choose_donor(self, found: list[int]) -> int:
        """Of a site that is joined to others rank 0 alone may resume: its feed knows what is published."""
        mine = max(found[0], newest_step(DiskStore(), self._crew.job.folder / CHECKPOINTS))
        return found.index(max(found)) if self._crew.job.alone and max(found) > mine else 0

    def _roll_back(self) -> None:
        """Where the keeper says so, what came after some step is forgotten, in memory and on disk."""
        bound = self._keeping.at_most_step if self._keeping else -1
        if self._copies and bound >= 0:
            self._copies.drop_after(bound)
        if 0 <= bound < self.standing.position.step or (bound >= 0 and not self.standing.has_state):
            self.standing.has_state = False
            self._drop_lead()
            if self._crew.group.rank == 0:
                drop_after(DiskStore(), self._crew.job.folder / CHECKPOINTS, bound)

    def _drop_lead(self) -> None:
        if self._lead:
            self._lead.abandon()
        self._lead = None

    def _new_lead(self, is_successor: bool, held: Held | None = None) -> Lead:
        lead = Lead(self._crew, self.standing)
        if is_successor:
            lead.succeed()
        else:
            lead.resume(held)
        last = self.standing.last
        start = Start(self.standing.position.step, last.work.ranges if last else [], is_successor)
        lead.open(self._open_feed(self._crew.learner, start))
        return lead

    def steps(self) -> Outcome:
        """Until the feed is done."""
        crew, lead = self._crew, self._lead
        held_out = _own_rows(crew.dataset.held_out(crew.job.run.train.eval_sequences), crew.group)
        with Batches(crew.dataset, crew.group.rank, crew.group.world_size) as batches:
            while True:
                crew.learner.page.phase(Phase.BOUNDARY)
                order = share_order(crew.group, lead.decide if lead else None)
                self._take_offer(order)
                if order.evaluate:
                    self._evaluate(held_out)
                task = order.offer.task
                if isinstance(task, Done):
                    return self._end(task.reason)
                if isinstance(task, Work):
                    self._step(batches, task)
                elif lead:
                    lead.settled()

    def _take_offer(self, order: Order) -> None:
        if order.offer.new_parameters:
            self._crew.learner.take_from_root()
        if order.offer.reset_moments:
            self._crew.learner.optimizer.reset()

    def _evaluate(self, held_out: Rows) -> None:
        self._crew.learner.page.phase(Phase.EVALUATE)
        loss = self._crew.learner.evaluate(held_out)
        self._outcome = replace(self._outcome, held_out_loss=loss)
        if self._lead:
            self._lead.evaluated(loss)

    def _step(self, batches: Batches, work: Work) -> None:
        crew, standing, page = self._crew, self.standing, self._crew.learner.page
        lr = learning_rate(crew.job.run.train, work.progress)
        injectors, crew.learner.steps = crew.learner.injectors, standing.position.step
        injectors.at(Point.STEP_BEGIN, standing.position.step)
        page.phase(Phase.LOAD)
        injectors.at(Point.DATA, standing.position.step)
        rows = batches.load(work.ranges)
        result = crew.learner.step(rows, lr, notice=crew.leave.asked)
        standing.stepped(work, result, lr, crew.dataset.seq_len)
        if self._copies:
            page.phase(Phase.CHECKPOINT)
            self._copies.stepped(standing)
        step = standing.position.step
        page.end_step(step)
        if step % TOLD_EVERY == 0:
            page.memory(*device_memory(crew.learner.device))
        part = step % HASHED_PARTS
        page.hashed(step, part, crew.learner.checksum(part, HASHED_PARTS))
        self._outcome = replace(self._outcome, loss=result.loss)
        if result.notices:
            crew.leave.ask("a notice to one of its ranks")
        if self._lead:
            self._lead.stepped()
            self._lead.count_experts(result.experts)

    def _end(self, reason: str) -> Outcome:
        """The others stay until rank 0 has written what is left: they are its memory till then."""
        page = self._crew.learner.page
        page.phase(Phase.CHECKPOINT)
        if self._lead:
            self._lead.close()
            if self._finish and not self._lead.departed:
                self._finish()
        self._crew.group.barrier()
        if self._copies:
            self._copies.end()
        page.leave()
        return replace(self._outcome, reason=reason)


def build_learner(job: Job, group: Collective, page: PageWriter | None = None) -> Learner:
    """The model with its first weights, and what trains it."""
    micro_batch = job.plan.site(job.site).micro_batch
    return Learner(build_model(job, group), job.run.train, group, micro_batch, page)


def build_model(job: Job, group: Collective) -> Transformer:
    """With its first weights, on this rank's chip, in the number format that is faster there."""
    chip = chips.get(job.plan.site(job.site).chips[group.rank])
    precision = job.run.train.precision
    if precision == "auto":
        precision = chip.best_dtype().dtype
    (is_bf16,) = group.share([precision == "bf16"])
    model = Transformer(job.run.model, torch.bfloat16 if is_bf16 else torch.float32)
    if job.run.train.init_from and group.rank == 0:  # the other ranks take rank 0's
        load_weights(model, Path(job.run.train.init_from).expanduser())
    else:
        init_weights(model, job.run.train.seed)
    return model.to(chip.device(job.local_rank))


def load_weights(model: Transformer, folder: Path) -> None:
    """Fill all parameters from a model folder, a tensor at a time.

    Raises NotFoundError, CorruptError, and InputError where it holds another model.
    """
    check_start(folder, model.spec)
    found = Floats(open_model(folder).source)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(found[name]))


def _own_rows(rows: Rows, group: Collective) -> Rows:
    mine = rank_rows(np.arange(len(rows[0]), dtype=np.int64), group.rank, group.world_size)
    return rows[0][mine], rows[1][mine]
