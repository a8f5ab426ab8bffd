"""What a rank is told to do, and what came of it."""

from dataclasses import dataclass
from pathlib import Path

from isthmus.comm.collective import Collective
from isthmus.data.dataset import Dataset
from isthmus.journal.writer import Journal
from isthmus.planner.plan import Plan
from isthmus.spec.run import RunSpec
from isthmus.train.learner import Learner
from isthmus.train.signals import Leave


@dataclass(frozen=True)
class Job:
    run: RunSpec
    plan: Plan
    site: str
    folder: Path
    """The site's own folder in the run's."""
    local_rank: int = 0
    alone: bool = True
    """No server keeps the parameters: checkpoints that cannot be read are a loss, and an error."""


@dataclass(frozen=True)
class Crew:
    """What one rank trains with, for as long as its process lives."""

    job: Job
    dataset: Dataset
    group: Collective
    learner: Learner
    journal: Journal
    leave: Leave


@dataclass(frozen=True)
class Outcome:
    reason: str
    """'budget', or why training ended before; '' on other ranks than 0."""
    loss: float
    """Of the last step; nan if there was none."""
    held_out_loss: float
    """Of the last evaluation; nan if there was none."""
