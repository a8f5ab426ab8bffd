"""What rank 0 does for its site beside training: the feed, the journal, checkpoints, and what is due when."""

import time
from dataclasses import dataclass
from math import isfinite

from isthmus.data.dataset import Dataset
from isthmus.errors import CorruptError, InputError
from isthmus.journal import events
from isthmus.journal.store import DiskStore
from isthmus.journal.writer import Journal
from isthmus.models.similarity import expert_similarity
from isthmus.train.checkpoint import CHECKPOINTS, Checkpoint, CheckpointWriter, Facts, Saved, load_newest
from isthmus.train.expert_watch import ExpertWatch
from isthmus.train.feed import Done, Feed, FeedState, Offer, StepStats, Work
from isthmus.train.job import Job
from isthmus.train.learner import Learner, StepResult
from isthmus.train.orders import Order
from isthmus.train.progress import ProgressLine
from isthmus.train.signals import Leave

LAST_SAVE_S = 600.0
"""How long the end of a run waits for its last checkpoint."""


@dataclass
class _Position:
    """How far the site has come."""

    step: int = 0
    tokens: int = 0
    progress: float = 0.0


class Lead:
    """Owns a site's feed and checkpoint writer: `resume`, `open`, `decide` and `stepped` in turn, `close`."""

    _feed: Feed

    def __init__(self, job: Job, learner: Learner, dataset: Dataset, journal: Journal, leave: Leave):
        self._job, self._learner, self._dataset = job, learner, dataset
        self._journal, self._leave = journal, leave
        self._subject = f"site {job.site}"
        self._position = _Position()
        self._feed_state: FeedState | None = None
        spec = job.run.train
        self._writer = CheckpointWriter(job.folder / CHECKPOINTS, spec.keep_checkpoints, self._saved)
        self._eval_every_s = float(spec.eval_every) or float("inf")
        self._save_every_s = float(spec.checkpoint_every) or float("inf")
        self._line = ProgressLine(job.site)
        self._experts = ExpertWatch(job.site, job.run.model)

    def resume(self) -> None:
        """Take up the site's newest sound checkpoint, if there is one; those passed over are journaled.

        Raises InputError if it is of another model or other data, and CorruptError if there are checkpoints,
        none of them is sound, and the site trains alone.
        """
        found, skipped = load_newest(DiskStore(), self._job.folder / CHECKPOINTS)
        for item in skipped:
            self._fault("checkpoint_damaged", f"passed over {item.path.name}: {item.reason}")
        if found is None:
            if skipped and self._job.alone:
                raise CorruptError(
                    f"none of the {len(skipped)} checkpoints is sound: {skipped[0].reason}",
                    where=str(self._job.folder / CHECKPOINTS),
                    hint="bring them back from a backup, or delete the folder to start over",
                )
            return
        self._check_same_run(found)
        self._learner.restore(found.parameters, found.moments)
        facts = found.facts
        self._position = _Position(facts.step, facts.tokens, facts.progress)
        self._feed_state = facts.feed
        self._journal.emit(
            events.Note(
                level="info", text=f"{self._subject} resumed from step {facts.step}, {found.path.name}"
            )
        )

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
            position, version = self._position, self._feed.version
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
        counted = self._experts.take(self._position.step, time.monotonic(), similarity, last=last)
        if counted:
            self._journal.emit(counted)

    def stepped(self, work: Work, result: StepResult, lr: float) -> None:
        """Called after each step: the feed may change the parameters here."""
        position = self._position
        tokens = work.num_sequences * self._dataset.seq_len
        position.step += 1
        position.tokens += tokens
        position.progress = work.progress
        stats = StepStats(
            step=position.step,
            ranges=work.ranges,
            loss=result.loss,
            tokens=tokens,
            expert_tokens=result.expert_tokens,
            lr=lr,
            grad_norm=result.grad_norm,
            step_s=result.step_s,
        )
        self._feed.after_step(stats)
        self._tell(stats)
        self._experts.add(result.experts)
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
        if not isfinite(stats.grad_norm):
            self._fault(
                "gradient_not_finite", f"step {stats.step} was left out, its norm was {stats.grad_norm}"
            )
        self._line.after_step(stats.step, stats.loss, stats.tokens, self._position.progress)

    def close(self) -> None:
        """After the last order: the last checkpoint, where leaving has not written it."""
        self._tell_experts(last=True)
        if not self._leave.asked:
            self._writer.wait(LAST_SAVE_S)
            self._save()
            self._writer.wait(LAST_SAVE_S)

    def _save(self) -> None:
        position = self._position
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
