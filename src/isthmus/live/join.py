"""`live.join`: from a plain script to a rank that is kept alive."""

import atexit
import os
from pathlib import Path

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from isthmus.comm.collective import Collective
from isthmus.comm.kept import KeptCollective
from isthmus.comm.site_group import Limits, form_group, init_site_group, site_rank
from isthmus.errors import InputError
from isthmus.faults.page import PageWriter
from isthmus.heal.messages import Form, Leave
from isthmus.live.broken import is_of_the_group
from isthmus.live.keep import KEEP, Keep
from isthmus.live.owner import OWNER, Owner
from isthmus.live.saves import Saves
from isthmus.live.state import Carried

LIMITS = Limits(meet_s=60.0, collective_s=900.0)
"""The second: longer than rank 0 may keep the others waiting."""


def join(
    model: nn.Module,
    *optimizers: Optimizer,
    folder: str | Path | None = None,
    every: int = 0,
    seed: int | None = None,
) -> Keep:
    """Joins the other ranks, or waits here, warm, until one of them has to be replaced.

    All ranks come out with the same model, optimizer state and step: those of the ranks that train already,
    or of the newest checkpoint, or of rank 0. Under `isthmus run` the process is kept alive; under torchrun
    or srun it joins by the environment, and a rank that dies ends all; alone it is the only rank.

    Args:
        model: with its parameters on the device they are trained on. It must not be wrapped in
            DistributedDataParallel, and no process group may exist: this makes it.
        optimizers: all that change the model. One from torch.optim, or several.
        folder: for checkpoints, which are needed if all ranks die at once; None: write none.
        every: steps between two checkpoints; 0: one at the end only.
        seed: each step begins with torch's random numbers seeded by it, the step and the rank, so that a
            rank that replaces another one draws the same. None: leave them alone.
    """
    if dist.is_initialized():
        raise InputError(
            "a process group exists already",
            where="live.join",
            hint="leave out init_process_group: join makes the group, and makes it anew when a rank dies",
        )
    carried, owner = Carried(model, optimizers), OWNER.get()
    carried.about()
    page = owner.page if owner else PageWriter()
    group = KeptCollective(_maker(carried.device.type, owner), page)
    saves = Saves(Path(folder), every) if folder else None
    keep = Keep(carried, group, page, owner, saves, seed)
    KEEP.set(keep)
    if owner is None:
        place = site_rank(os.environ)
        keep.enter(Form(1, place.rank, place.world_size, ()))
        atexit.register(group.close)
    else:
        _enter(keep, owner, group)
    return keep


def _enter(keep: Keep, owner: Owner, group: KeptCollective) -> None:
    owner.broke = group.abandon
    owner.joins()
    try:
        if owner.form is None:
            order = owner.next_order()
            if isinstance(order, Leave):
                raise SystemExit(0)
            owner.take(order)
        assert owner.form is not None
        keep.enter(owner.form)
    except Exception as error:
        if not is_of_the_group(error):
            raise
        keep.regroup(error)


def _maker(device_type: str, owner: Owner | None):
    """How this process meets the others of a group."""
    backend = "gloo" if device_type == "cpu" else dist.get_default_backend_for_device(device_type)

    def make(form: Form) -> Collective:
        if owner is None:
            return init_site_group(site_rank(os.environ), backend, LIMITS.collective_s, device_type)
        return form_group(form, owner.line, backend, LIMITS, device_type)

    return make
