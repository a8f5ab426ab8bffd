"""A rank of a user's script that goes on when others die."""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import msgspec
import torch
from torch import Tensor

from isthmus.comm.collective import Collective
from isthmus.comm.kept import KeptCollective
from isthmus.faults.page import PageWriter, Phase
from isthmus.heal.agree import agree
from isthmus.heal.messages import Form, Leave
from isthmus.live.average import average
from isthmus.live.broken import is_of_the_group
from isthmus.live.owner import Owner
from isthmus.live.retry import Before, Stepped
from isthmus.live.saves import Saves
from isthmus.live.state import About, Carried
from isthmus.parallel.bits import HASHED_PARTS, checksum
from isthmus.train.memory import TOLD_EVERY, device_memory


class Told(msgspec.Struct, frozen=True):
    """What a donor tells the others, beside its tensors."""

    step: int
    extra: dict[str, Any]
    optimizers: list[About]


class Keep:
    """This process's part in the training of a script, from `live.join`.

    `extra` is the script's own, plain values that JSON can hold: another rank takes it over with the model,
    and a checkpoint has it.
    """

    def __init__(
        self,
        carried: Carried,
        group: KeptCollective,
        page: PageWriter,
        owner: Owner | None,
        saves: Saves | None,
        seed: int | None,
    ):
        self.extra: dict[str, Any] = {}
        self.left = False
        """It was asked to end before the last step."""
        self._carried, self._group, self._page, self._owner = carried, group, page, owner
        self._saves, self._seed = saves, seed
        self._done, self._has_state = 0, False
        self._before, self._stepped = Before(carried), Stepped(carried)
        self._notices = -1
        self._norm: Tensor | None = None
        self._loss: float | Tensor = 0.0

    @property
    def rank(self) -> int:
        return self._group.rank

    @property
    def world_size(self) -> int:
        """May change from one step to the next."""
        return self._group.world_size

    @property
    def group(self) -> Collective:
        """The same object for the whole run, whoever is in it. Use it inside `with keep.step()`."""
        return self._group

    @property
    def steps_done(self) -> int:
        return self._done

    # ---- the loop

    def steps(self, total: int) -> Iterator[int]:
        """Numbers of the steps, from that where the others are to `total` - 1; one that broke comes again.

        Make the batch of a step from its number, `keep.rank` and `keep.world_size`, so that it is the same
        one again. Where the process is asked to leave, it saves and ends here (SystemExit, exit code 0).
        """
        while self._done < total and not self.left:
            yield self._done
        if self._saves and self.rank == 0:
            self._page.phase(Phase.CHECKPOINT)
            self._saves.close(self._done, self._carried, self.extra)
        if self.left:
            raise SystemExit(0)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Forward, backward and `optimizer.step()` of one step.

        Where the group breaks inside, the rest of the block is left out, a new group is made, and all ranks
        come to stand at the same step. Other errors go on.
        """
        self._begin()
        try:
            yield
            self._agree_to_leave()
        except Exception as error:
            if self._owner is None or not is_of_the_group(error):
                raise
            self._broke()
            self.regroup(error)
            return
        self._count()

    def average_gradients(self) -> None:
        """Each parameter's `grad` becomes the mean over the ranks, and so do running means and the like that
        forward has changed.
        """
        gradients = [p.grad for p in self._carried.parameters if p.grad is not None]
        if gradients:
            self._norm = torch.linalg.vector_norm(
                torch.stack([torch.linalg.vector_norm(gradient.detach()) for gradient in gradients])
            )
        if self.world_size > 1:
            self._page.phase(Phase.EXCHANGE)
            asked = self._owner is not None and bool(self._owner.leaving)
            changed = list(zip(self._carried.buffers, self._before.changed(), strict=True))
            self._notices = average(self._carried.parameters, changed, self._group, asked)
        self._page.phase(Phase.UPDATE)

    def tell(self, *, loss: float | Tensor) -> None:
        """This rank's loss in the step, for those who watch the run."""
        self._loss = loss.detach() if isinstance(loss, Tensor) else loss

    def _begin(self) -> None:
        self._stepped.begin()
        self._notices, self._norm, self._loss = -1, None, 0.0
        self._before.keep(self.extra)
        if self._seed is not None:
            torch.manual_seed((self._seed * 1_000_003 + self._done) * 65_537 + self.rank)
        self._page.phase(Phase.FORWARD)

    def _agree_to_leave(self) -> None:
        """All ranks end after the same step. Known already where gradients were averaged."""
        if self._owner is None:
            return
        if self._notices < 0:
            self._notices = self._group.agree(int(bool(self._owner.leaving)))
        self.left = self._notices > 0

    def _count(self) -> None:
        page = self._page
        self._done += 1
        self._has_state = True
        if self._owner:
            self._owner.step = self._done
        norm = float(self._norm) if self._norm is not None else 0.0
        page.saw(norm, float(self._loss))
        if not math.isfinite(norm):
            page.nonfinite()
        page.end_step(self._done)
        if self._done % TOLD_EVERY == 0:
            page.memory(*device_memory(self._carried.device))
        if self._norm is not None and self.world_size > 1:
            part = self._done % HASHED_PARTS
            page.hashed(self._done, part, checksum(self._carried.parameters, part, HASHED_PARTS))
        if self._saves and self.rank == 0:
            page.phase(Phase.CHECKPOINT)
            self._saves.step_done(self._done, self._carried, self.extra)
        page.phase(Phase.EVALUATE)

    # ---- when the group breaks

    def _broke(self) -> None:
        """A step in which the optimizer has stepped is done: it had the gradients of all ranks."""
        for parameter in self._carried.parameters:
            parameter.grad = None
        if self._stepped.all:
            self._done += 1
            self._page.end_step(self._done)
        elif self._stepped.none:
            self.extra = self._before.put_back()
        else:
            self._has_state = False  # some optimizers have stepped, some have not
        if self._owner:
            self._owner.step = self._done if self._has_state else -1

    def regroup(self, error: Exception) -> None:
        """Takes places in one group after the other until all ranks of one stand at the same step."""
        owner = self._owner
        assert owner is not None
        while True:
            self._page.phase(Phase.REGROUP)
            owner.broken(str(error).splitlines()[0] if str(error) else type(error).__name__)
            try:
                order = self._next_order(owner)
                owner.take(order)
                self.enter(order)
                return
            except Exception as again:
                if not is_of_the_group(again):
                    raise
                error = again

    def _next_order(self, owner: Owner) -> Form:
        while isinstance(order := owner.next_order(), Leave):
            if order.reason == "its agent is gone":
                raise SystemExit(1)
        return order

    def enter(self, form: Form) -> None:
        """Meets the others of this group and comes to stand where the furthest of them stands. Raises
        UnreachableError.
        """
        if 0 <= form.at_most_step < self._done:
            self._has_state = False
        self._group.form(form)
        agreed = agree(self._group.gather(self._done if self._has_state else -1))
        is_cold = agreed.step < 0
        if is_cold and self.rank == 0:
            self._done, self.extra = self._resume(form.at_most_step)
        if is_cold or agreed.behind:
            donor = 0 if is_cold else agreed.donor
            is_behind = self.rank != donor and (is_cold or self.rank in agreed.behind)
            self._take_state(donor, is_behind)
        self._has_state = True
        self._page.regrouped(form.generation, self._done)
        self._page.phase(Phase.EVALUATE)
        if self._owner:
            self._owner.joined(self._done)

    def _resume(self, at_most_step: int) -> tuple[int, dict[str, Any]]:
        return self._saves.resume(self._carried, at_most_step) if self._saves else (0, self.extra)

    def _take_state(self, donor: int, is_behind: bool) -> None:
        """Who is behind has no state until all of the donor's is there; who is not receives the same bits."""
        mine = msgspec.json.encode(Told(self._done, self.extra, self._carried.about()))
        told = msgspec.json.decode(self._group.share_bytes(mine, donor), type=Told)
        if is_behind:
            self._has_state = False
            self._carried.become(told.optimizers)
        self._carried.share(self._group, donor)
        self._done, self.extra = told.step, told.extra

    def finish(self) -> None:
        """The script has ended here: stay until all have come as far, their state may be needed."""
        while self._owner is not None:
            try:
                self._group.barrier()
                break
            except Exception as error:
                if not is_of_the_group(error):
                    raise
                self.regroup(error)
        self._page.leave()
        self._page.phase(Phase.DONE)
        self._group.close()


KEEP: ContextVar[Keep | None] = ContextVar("keep", default=None)
"""Of the script that runs in this process, once it has joined."""
