"""Where a site's work comes from. The loop asks its feed at every step boundary, on rank 0 alone.

`LocalFeed` is a site of its own, without a server. Sites joined by a parameter server have a feed that
takes leases and versions from it; all that the loop sees of the server is this protocol.
"""

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

Range = tuple[int, int]
FeedState = dict[str, int | float | str]


class Work(msgspec.Struct, frozen=True, tag=True):
    """Do one optimizer step on these samples."""

    ranges: list[Range]
    """Half-open ranges of the global sample stream, not empty."""
    progress: float
    """Highest sample index handed out so far over the budget, in (0, 1]; decides the learning rate."""

    @property
    def num_sequences(self) -> int:
        return sum(end - start for start, end in self.ranges)


class Idle(msgspec.Struct, frozen=True, tag=True):
    """There is nothing to train on now; ask again. The feed has waited already, a second at most."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """No more steps. The parameters are final."""

    reason: str
    """'budget', 'stopped' or what else ended it, for the journal."""


class Offer(msgspec.Struct, frozen=True):
    """The feed's answer at a step boundary."""

    task: Work | Idle | Done
    new_parameters: bool = False
    """The feed changed rank 0's parameters since the last offer: the other ranks take them over."""
    reset_moments: bool = False
    """The optimizer starts afresh, on every rank."""


@dataclass(frozen=True)
class Start:
    """Where the ranks stand when a feed is opened."""

    step: int
    ranges: list[Range]
    """What that step was done on, if it was done here."""
    is_successor: bool
    """Rank 0 was replaced, the others have lived on: the feed may go on where that one's was. It may be told
    of that step once more."""


@dataclass(frozen=True)
class StepStats:
    """One step, over all ranks of the site."""

    step: int
    ranges: list[Range]
    loss: float
    """Mean cross entropy, nats per token."""
    tokens: int
    """Sequences times their length, what budgets are counted in."""
    expert_tokens: list[int]
    """Tokens each expert received, at [moe_layer * num_experts + expert]; empty for a dense model."""
    lr: float
    grad_norm: float
    """Before clipping. If it is not finite, the step was left out."""
    step_s: float
    """Without the time spent in the feed."""


class Feed(Protocol):
    @property
    def version(self) -> int:
        """Version of the published parameters that training stands on; 0 where nothing is published."""
        ...

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting so far: for leases, for versions."""
        ...

    def next(self, num_sequences: int) -> Offer:
        """Work for one step, of at most `num_sequences`. Returns within about a second."""
        ...

    def after_step(self, stats: StepStats) -> None:
        """A step was done. Here rank 0's parameters may be read and changed in place."""
        ...

    def leave(self, reason: str, timeout_s: float) -> None:
        """The site leaves before `Done`: hand in what was trained, give back the rest, within `timeout_s`."""
        ...

    def state(self) -> FeedState:
        """What a checkpoint keeps for `restore`; 'reached' among it: the end of the samples handed out."""
        ...

    def restore(self, state: FeedState) -> None:
        """Called before the first `next` of a resumed site."""
        ...


@dataclass
class LocalFeed:
    """One site trains the whole budget: samples 0 to `num_samples`, in order."""

    num_samples: int
    cursor: int = field(default=0)
    """First sample not handed out yet. A step's samples are its: they are never handed out again."""
    version: int = 0
    wait_s: float = 0.0

    def next(self, num_sequences: int) -> Offer:
        start = self.cursor
        end = min(start + num_sequences, self.num_samples)
        if start >= end:
            return Offer(Done("budget"))
        self.cursor = end
        return Offer(Work([(start, end)], end / self.num_samples))

    def after_step(self, stats: StepStats) -> None:
        """Nobody else trains this model."""

    def leave(self, reason: str, timeout_s: float) -> None:
        """Nothing to hand in."""

    def state(self) -> FeedState:
        return {"reached": self.cursor}

    def restore(self, state: FeedState) -> None:
        self.cursor = int(state.get("reached", state.get("cursor", 0)))  # its name once
