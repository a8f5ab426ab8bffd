"""Where a rank's state stands, and how the ranks of a new group come to stand at the same place.

Every rank keeps what its site's lead would need to go on in its place: with data parallelism each has the
whole state, and nothing but the feed's connection is rank 0's alone.
"""

from dataclasses import dataclass, field

import msgspec

from isthmus.comm.collective import Collective, GroupBrokenError
from isthmus.parallel.bits import checksum
from isthmus.train.feed import Work
from isthmus.train.learner import Learner, StepResult


class TornError(GroupBrokenError):
    """State that came from another rank is not what was sent."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far the site has come."""

    step: int = 0
    """Optimizer steps done, left out ones included."""
    tokens: int = 0
    progress: float = 0.0
    reached: int = 0
    """End of the samples handed out so far, in the global stream."""


class LastStep(msgspec.Struct, frozen=True, kw_only=True):
    """What the lead is told of a step, so that another rank's memory of it can stand in for its own."""

    work: Work
    lr: float
    loss: float
    grad_norm: float
    expert_tokens: list[int]
    rank_losses: list[float]
    bad_ranks: list[int]
    step_s: float


@dataclass
class Standing:
    """A rank's own. `has_state`: its model and moments are those of `position`."""

    position: Position = field(default_factory=Position)
    last: LastStep | None = None
    has_state: bool = False

    @property
    def held_step(self) -> int:
        """Optimizer steps of the state it has; -1: it has none."""
        return self.position.step if self.has_state else -1

    def stepped(self, work: Work, result: StepResult, lr: float, seq_len: int) -> None:
        """An optimizer step was done (or left out, on all ranks)."""
        before = self.position
        self.position = Position(
            step=before.step + 1,
            tokens=before.tokens + work.num_sequences * seq_len,
            progress=work.progress,
            reached=max(before.reached, work.ranges[-1][1]),
        )
        self.last = LastStep(
            work=work,
            lr=lr,
            loss=result.loss,
            grad_norm=result.grad_norm,
            expert_tokens=result.expert_tokens,
            rank_losses=result.rank_losses,
            bad_ranks=result.bad_ranks,
            step_s=result.step_s,
        )


class _Told(msgspec.Struct, frozen=True):
    """What the donor tells the others, beside its tensors."""

    position: Position
    last: LastStep | None
    checksum: int


def take_state(
    group: Collective, learner: Learner, standing: Standing, donor: int, *, is_even: bool = False
) -> None:
    """All ranks take the donor's model, moments and position. Raises TornError where what arrived is
    not what was sent: that rank has no state.

    A rank that is behind has no state until it has all of the donor's: its own is written over, and a donor
    that dies in between leaves a mixture.
    """
    if not is_even:
        standing.has_state = False
    learner.take_from_root(moments=True, root=donor)
    mine = _Told(standing.position, standing.last, _checksum(learner))
    data = group.share_bytes(msgspec.msgpack.encode(mine), donor)
    told = msgspec.msgpack.decode(data, type=_Told)
    if mine.checksum != told.checksum:
        standing.has_state = False
        raise TornError(
            f"the state that came from rank {donor} does not match its checksum", where=f"rank {group.rank}"
        )
    standing.position, standing.last, standing.has_state = told.position, told.last, True


def _checksum(learner: Learner) -> int:
    """Of parameters and moments."""
    return checksum(list(learner.tensors().values()), 0, 1)
