"""The inner loop: one site trains, step by step, on what its feed hands out.

Every rank runs the same loop. Rank 0 is also the site's lead: it asks the feed, writes journal and
checkpoints, and decides what is due; its decision at each step boundary reaches the others as an order.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from isthmus import chips
from isthmus.comm.collective import Collective
from isthmus.data.dataset import Dataset
from isthmus.data.loader import rank_rows
from isthmus.journal.writer import Journal
from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer
from isthmus.train.batches import Batches, Rows
from isthmus.train.export import check_start
from isthmus.train.feed import Done, Feed, Work
from isthmus.train.job import Job, Outcome
from isthmus.train.lead import Lead
from isthmus.train.learner import Learner
from isthmus.train.orders import share_order
from isthmus.train.schedule import learning_rate
from isthmus.train.signals import Leave
from isthmus.weights.folder import open_model
from isthmus.weights.source import Floats

OpenFeed = Callable[[Learner], Feed]
"""Makes rank 0's feed, once the model holds its first (or resumed) parameters."""


def train(
    job: Job, dataset: Dataset, group: Collective, journal: Journal, leave: Leave, open_feed: OpenFeed
) -> Outcome:
    """Train until the feed is done or `leave` is asked. All ranks of the site call this.

    Resumes from the site's newest sound checkpoint; the number of ranks may have changed since. `journal` and
    `open_feed` are rank 0's. Raises IsthmusError where gradients stay non-finite, and CorruptError where no
    checkpoint is sound.
    """
    learner = build_learner(job, group)
    lead = None
    if group.rank == 0:
        lead = Lead(job, learner, dataset, journal, leave)
        lead.resume()
        lead.open(open_feed(learner))
    learner.take_from_root(moments=True)
    held_out = _own_rows(dataset.held_out(job.run.train.eval_sequences), group)
    loss = held_out_loss = float("nan")

    with Batches(dataset, group.rank, group.world_size) as batches:
        while True:
            order = share_order(group, lead.decide if lead else None)
            if order.offer.new_parameters:
                learner.take_from_root()
            if order.offer.reset_moments:
                learner.optimizer.reset()
            if order.evaluate:
                held_out_loss = learner.evaluate(held_out)
                if lead:
                    lead.evaluated(held_out_loss)
            task = order.offer.task
            if isinstance(task, Done):
                break
            if isinstance(task, Work):
                lr = learning_rate(job.run.train, task.progress)
                result = learner.step(batches.load(task.ranges), lr, notice=leave.asked)
                loss = result.loss
                if result.notices:
                    leave.ask("a notice to one of its ranks")
                if lead:
                    lead.stepped(task, result, lr)
    if lead:
        lead.close()
    return Outcome(task.reason, loss, held_out_loss)


def build_learner(job: Job, group: Collective) -> Learner:
    """The model with its first weights, and what trains it."""
    return Learner(build_model(job, group), job.run.train, group, job.plan.site(job.site).micro_batch)


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
