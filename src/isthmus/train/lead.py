"""What rank 0 does for its site beside training: the feed, the journal, checkpoints, and what is due when."""

import time
from math import isfinite

from isthmus.errors import CorruptError, InputError
from isthmus.faults.inject.kinds import Point
from isthmus.faults.page import Phase
from isthmus.journal import events
from isthmus.journal.store import DiskStore
from isthmus.models.similarity import expert_similarity
from isthmus.train.balance import ExpertStats
from isthmus.train.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    CheckpointWriter,
    Facts,
    Saved,
    load_newest,
    newest_step,
)
from isthmus.train.expert_watch import ExpertWatch
from isthmus.train.feed import Done, Feed, FeedState, Offer, StepStats, Work
from isthmus.train.job import Crew
from isthmus.train.orders import Order
from isthmus.train.progress import ProgressLine
from isthmus.train.standing import LastStep, Position, Standing
from isthmus.train.state_copies import Held

LAST_SAVE_S = 600.0
"""How long the end of a run waits for its last checkpoint."""


class Lead:
    """Owns a site's feed and checkpoint writer: `resume`, `open`, `decide` and `stepped` in turn, `close`."""

    _feed: Feed

    def __init__(self, crew: Crew, standing: Standing):
        self._job, self._learner, self._dataset = crew.job, crew.learner, crew.dataset
        self._journal, self._leave = crew.journal, crew.leave
        self._standing = standing
        self._told_step = 0
        """The last step that the feed and the journal were told of."""
        self.departed = False
        """Leaving was asked in time: the checkpoint is written, the work handed in, and the run not done."""
        self._order: Order | None = None
        """Decided and not carried out yet: a group that broke meanwhile gets it again."""
        job = crew.job
        self._subject = f"site {job.site}"
        self._feed_state: FeedState | None = None
        spec = job.run.train
        self._injectors = crew.learner.injectors
        self._writer = CheckpointWriter(
            job.folder / CHECKPOINTS, spec.keep_checkpoints, self._saved, store=self._injectors.disk
        )
        self._eval_every_s = float(spec.eval_every) or float("inf")
        self._save_every_s = float(spec.checkpoint_every) or float("inf")
        self._line = ProgressLine(job.site)
        self._experts = ExpertWatch(job.site, job.run.model)

    def resume(self, held: Held | None = None) -> None:
        """Take up the site's newest sound checkpoint, or the copy `held` in this node's memory where that is
        newer, if there is one; checkpoints passed over are journaled.

        Raises InputError if it is of another model or other data, and CorruptError if there are checkpoints,
        none of them is sound, and the site trains alone.
        """
        folder = self._job.folder / CHECKPOINTS
        if held and held.step >= newest_step(DiskStore(), folder):
            self._take_up(held)
            return
        found, skipped = load_newest(DiskStore(), folder)
        for item in skipped:
            self._fault("checkpoint_damaged", f"passed over {item.path.name}: {item.reason}")
        if held and held.step >= (found.facts.step if found else 0):
            self._take_up(held)
            return
        if found is None:
            if skipped and self._job.alone:
                raise CorruptError(
                    f"none of the {len(skipped)} checkpoints is sound: {skipped[0].reason}",
                    where=str(folder),
                    hint="bring them back from a backup, or delete the folder to start over",
                )
            return
        self._check_same_run(found)
        self._learner.restore(found.parameters, found.moments)
        facts = found.facts
        reached = int(facts.feed.get("reached", facts.feed.get("cursor", 0)))
        self._standing.position = Position(
            step=facts.step, tokens=facts.tokens, progress=facts.progress, reached=reached
        )
        self._told_step = facts.step
        self._feed_state = facts.feed
        self._journal.emit(
            events.Note(
                level="info", text=f"{self._subject} resumed from step {facts.step}, {found.path.name}"
            )
        )

    def _take_up(self, held: Held) -> None:
        """A site on its own tells the last step again, as after `succeed`. A joined one does not: the server
        counts what it is told, and its published parameters take the place of the copy's when the feed opens.
        """
        held.restore(self._learner, self._standing)
        self._told_step = held.step - 1 if self._job.alone else held.step
        self._feed_state = {"reached": self._standing.position.reached}
        text = f"{self._subject} resumed from the copy in memory of step {held.step}"
        self._journal.emit(events.Note(level="info", text=text))

    def _check_same_run(self, found: Checkpoint) -> None:
        facts = found.facts
        mine = {"model": self._job.run.model, "data": self._dataset.fingerprint}
        for what, theirs in (("model", facts.model), ("data", facts.data)):
            if theirs != mine[what]:
                raise InputError(
                    f"this run's checkpoints are of another `{what}` than its run.yaml says",
                    where=str(found.path),
                    hint=f"take back the change to `{what}`, or start a new run in another folder",
                )

    def succeed(self) -> None:
        """Stand in for a lead that died, from what the other ranks remember. The last step is told again:
        that lead may have died before telling it. Feeds that know it already leave it at that.
        """
        self._feed_state = {"reached": self._standing.position.reached}
        self._told_step = self._standing.position.step - 1

    def open(self, feed: Feed) -> None:
        if self._feed_state is not None:
            feed.restore(self._feed_state)
        self._feed = feed
        self._waited_s = feed.wait_s
        self._boundary_s = self._decided_s = now_s = time.monotonic()
        self._next_eval_s = now_s + self._eval_every_s
        self._next_save_s = now_s + self._save_every_s

    def decide(self) -> Order:
        """The order at a step boundary. Here, between two steps, parameters, moments and feed agree."""
        self._order = self._order or self._decide()
        return self._order

    def settled(self) -> None:
        """The order was carried out."""
        self._order = None

    def _decide(self) -> Order:
        if self._leave.asked:
            return self._depart()
        now_s = time.monotonic()
        if now_s >= self._next_save_s:
            self._save()
            self._next_save_s = now_s + self._save_every_s
        offer = self._feed.next(self._job.plan.batch_size)
        is_due = now_s >= self._next_eval_s and isinstance(offer.task, Work)
        self._decided_s = time.monotonic()
        return Order(offer, evaluate=is_due or isinstance(offer.task, Done))

    def _depart(self) -> Order:
        """The checkpoint goes first: handing in the work may take longer than there is time."""
        self.departed = True
        self._writer.wait(self._leave.remaining_s)
        self._save()
        self._writer.wait(self._leave.remaining_s)
        self._feed.leave(self._leave.reason, self._leave.remaining_s)
        return Order(Offer(Done(f"stopped by {self._leave.reason}")), evaluate=False)

    def evaluated(self, loss: float) -> None:
        self._tell_experts(similarity=expert_similarity(self._learner.model))
        now_s = time.monotonic()
        self._boundary_s += now_s - self._decided_s
        self._next_eval_s = now_s + self._eval_every_s
        if isfinite(loss):
            position, version = self._standing.position, self._feed.version
            self._journal.emit(
                events.EvalDone(
                    site=self._job.site,
                    step=position.step,
                    version=version,
                    loss=loss,
                    tokens=position.tokens,
                )
            )

    def _tell_experts(self, similarity: list[float] | None = None, *, last: bool = False) -> None:
        counted = self._experts.take(self._standing.position.step, time.monotonic(), similarity, last=last)
        if counted:
            self._journal.emit(counted)

    def stepped(self) -> None:
        """Called after each step, also one that only others' memory has kept: the feed may change the
        parameters here.
        """
        position, last = self._standing.position, self._standing.last
        self.settled()
        if last is None or position.step <= self._told_step:
            return
        self._told_step = position.step
        stats = StepStats(
            step=position.step,
            ranges=last.work.ranges,
            loss=last.loss,
            tokens=last.work.num_sequences * self._dataset.seq_len,
            expert_tokens=last.expert_tokens,
            lr=last.lr,
            grad_norm=last.grad_norm,
            step_s=last.step_s,
        )
        self._feed.after_step(stats)
        self._tell(stats)
        self._tell_bad(last)

    def caught_up(self) -> None:
        """After the group was formed anew: a step that another rank has finished for all is told."""
        if self._standing.position.step > self._told_step:
            self.stepped()

    def count_experts(self, experts: ExpertStats) -> None:
        self._experts.add(experts)
        self._tell_experts()

    def _tell(self, stats: StepStats) -> None:
        now_s, waited_s = time.monotonic(), self._feed.wait_s
        self._journal.emit(
            events.StepDone(
                site=self._job.site,
                step=stats.step,
                tokens=stats.tokens,
                loss=stats.loss,
                lr=stats.lr,
                grad_norm=stats.grad_norm,
                step_s=now_s - self._boundary_s,
                wait_s=waited_s - self._waited_s,
                version=self._feed.version,
            )
        )
        self._boundary_s, self._waited_s = now_s, waited_s
        self._line.after_step(stats.step, stats.loss, stats.tokens, self._standing.position.progress)

    def _tell_bad(self, last: LastStep) -> None:
        if isfinite(last.grad_norm):
            return
        step, names = self._standing.position.step, ", ".join(map(str, last.bad_ranks))
        of = f"; the gradient of rank {names} was not finite before the exchange" if names else ""
        self._fault("gradient_not_finite", f"step {step} was left out, its norm was {last.grad_norm}{of}")

    def close(self) -> None:
        """After the last order: the last checkpoint, where leaving has not written it."""
        self._tell_experts(last=True)
        if not self.departed:
            self._writer.wait(self._last_save_s)
            self._save()
            self._writer.wait(self._last_save_s)

    def abandon(self) -> None:
        """What it stood on is gone. The checkpoint being written is finished before anything follows."""
        self._writer.wait(LAST_SAVE_S)

    @property
    def _last_save_s(self) -> float:
        """Who is asked to leave only now, at the end of the run, has less time for it."""
        return self._leave.remaining_s if self._leave.asked else LAST_SAVE_S

    def _save(self) -> None:
        position, page = self._standing.position, self._learner.page
        page.phase(Phase.CHECKPOINT)
        self._injectors.at(Point.SAVING, position.step)
        facts = Facts(
            step=position.step,
            tokens=position.tokens,
            progress=position.progress,
            version=self._feed.version,
            model=self._job.run.model,
            data=self._dataset.fingerprint,
            feed=self._feed.state(),
        )
        self._writer.save(facts, self._learner.parameters(), self._learner.moments())
        page.phase(Phase.BOUNDARY)

    def _saved(self, saved: Saved) -> None:
        if saved.error is not None:
            self._journal.emit(events.CheckpointFailed(what=self._subject, reason=saved.error.message))
            return
        self._journal.emit(
            events.CheckpointSaved(
                what=self._subject,
                version=saved.facts.version,
                step=saved.facts.step,
                path=str(saved.path),
                duration_s=saved.duration_s,
            )
        )

    def _fault(self, kind: str, detail: str) -> None:
        self._journal.emit(events.Fault(subject=self._subject, kind=kind, detail=detail))
