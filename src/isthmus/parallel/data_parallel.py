"""Data parallelism inside a site: each rank has the whole model and its own micro-batches.

The gradient of a step is that of sum_b n_b * loss_b / sum_b n_b over all micro-batches b of all ranks, with
n_b the targets that count in b: exactly one process's mean over all tokens, however unevenly they lie. The
balance loss is a function of a micro-batch, and is weighted with it.

Gradients are summed bucket by bucket while backward still runs. Buckets start in one fixed order, whatever
order a rank's gradients come in, because ranks must issue the same collectives in the same order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.comm.collective import Collective, Pending
from isthmus.comm.many import broadcast_many_

BUCKET_BYTES = 4 * 2**20
"""Small enough to start early, large enough that the latency of a message does not count."""


@dataclass
class _Bucket:
    params: list[nn.Parameter]
    flat: Tensor
    views: list[Tensor]
    """Each parameter's part of `flat`, in its shape."""
    arrived: list[bool]
    """Which gradients of this step are in `flat`."""
    pending: Pending | None = None


class DataParallel:
    """Averages gradients over the ranks of a site.

        for index, batch in enumerate(micro_batches):
            output = model(...)
            parallel.backward(output.loss, output.num_targets, last=index == len(micro_batches) - 1)
        num_targets = parallel.finish()
        optimizer.step()
        optimizer.zero_grad()

    After `finish` every `param.grad` is the mean, the same bits on all ranks. A parameter without gradient
    on all ranks (an expert without tokens) keeps None. Gradients must be None when a step starts. Where a
    collective fails, or the group has changed, call `restart` and do the step again.
    """

    def __init__(self, model: nn.Module, group: Collective, bucket_bytes: int = BUCKET_BYTES):
        self._group = group
        self._all = list(model.parameters())
        self._params = [param for param in self._all if param.requires_grad]
        self._weight = torch.zeros((), dtype=torch.int64, device=self._params[0].device)
        self._bucket_bytes = bucket_bytes
        self.own_norm = torch.zeros((), device=self._params[0].device)
        """L2 norm of this rank's own mean gradient in the last step, before it was exchanged: not finite
        where this rank made it so. Zero in a group of one."""
        self._buckets: list[_Bucket] = []
        self._place: dict[nn.Parameter, tuple[_Bucket, int]] = {}
        for param in self._params:
            param.register_post_accumulate_grad_hook(self._collect)
        self.restart()

    def restart(self) -> None:
        """Begin a step afresh, in the group as it is now: nothing of an exchange that broke is left."""
        self._last = False
        self._started = 0
        """Buckets whose all-reduce has started."""
        self._own_norms: list[Tensor] = []
        self.own_norm = torch.zeros_like(self.own_norm)
        self._weight.zero_()
        if self._group.world_size > 1 and not self._buckets:
            self._buckets = _make_buckets(self._params, self._bucket_bytes)
        elif self._group.world_size == 1:
            self._buckets = []
        self._place = {
            param: (bucket, index) for bucket in self._buckets for index, param in enumerate(bucket.params)
        }
        for bucket in self._buckets:
            bucket.arrived = [False] * len(bucket.params)
            bucket.pending = None
        for param in self._params:
            param.grad = None

    def broadcast_parameters(self, root: int = 0) -> None:
        """Give all ranks the root's parameters."""
        broadcast_many_(self._group, self._all, root)

    def backward(self, loss: Tensor, num_targets: Tensor | int, *, last: bool) -> None:
        """Add a micro-batch's gradient; `last` starts the exchange while this backward runs.

        `loss` is the mean over the micro-batch's `num_targets`. Ranks may have unlike numbers of
        micro-batches, also none: then they call `finish` alone.
        """
        self._last = last
        self._weight += num_targets
        (loss * num_targets).backward()

    def finish(self) -> int:
        """Complete the exchange. Returns the number of targets over all ranks."""
        own_weight = self._weight.clamp(min=1)
        total = self._exchange() if self._buckets else self._scale_own()
        if self._own_norms:
            self.own_norm = torch.linalg.vector_norm(torch.stack(self._own_norms)) / own_weight
        self._weight.zero_()
        self._last, self._started, self._own_norms = False, 0, []
        return total

    def _collect(self, param: Tensor) -> None:
        """Hook: move a gradient that is complete into its bucket, and start the buckets that are full."""
        if not self._last or not self._buckets:
            return
        bucket, index = self._place[param]  # pyright: ignore[reportArgumentType]
        _take(bucket, index)
        while self._started < len(self._buckets) and all(self._buckets[self._started].arrived):
            self._start_next()

    def _start_next(self) -> None:
        bucket = self._buckets[self._started]
        self._own_norms.append(torch.linalg.vector_norm(bucket.flat))
        bucket.pending = self._group.start_all_reduce_(bucket.flat)
        self._started += 1

    def _exchange(self) -> int:
        for bucket in self._buckets[self._started :]:
            for index, arrived in enumerate(bucket.arrived):
                if not arrived:
                    _take(bucket, index)
            self._start_next()
        present = torch.tensor([has for bucket in self._buckets for has in bucket.arrived])
        facts = torch.cat([self._weight[None], present.to(self._weight)])
        self._group.all_reduce_(facts)
        total, *holders = facts.tolist()
        count_of = iter(holders)
        for bucket in self._buckets:
            assert bucket.pending is not None
            bucket.pending.wait()
            bucket.flat.mul_(1.0 / max(total, 1))
            for param, view in zip(bucket.params, bucket.views, strict=True):
                param.grad = view if next(count_of) else None
            bucket.arrived = [False] * len(bucket.params)
        return total

    def _scale_own(self) -> int:
        total = int(self._weight)
        for param in self._params:
            if param.grad is not None:
                param.grad.mul_(1.0 / max(total, 1))
        return total


def _take(bucket: _Bucket, index: int) -> None:
    """Move a parameter's gradient into the bucket: zero if it has none."""
    param = bucket.params[index]
    if param.grad is None:
        bucket.views[index].zero_()
        return
    bucket.views[index].copy_(param.grad)
    bucket.arrived[index] = True
    param.grad = None


def _make_buckets(params: list[nn.Parameter], bucket_bytes: int) -> list[_Bucket]:
    """Cut the parameters, last first as in backward, where a bucket is full or the dtype changes."""
    groups: list[list[nn.Parameter]] = []
    size = bucket_bytes
    for param in reversed(params):
        if size >= bucket_bytes or param.dtype != groups[-1][0].dtype:
            groups.append([])
            size = 0
        groups[-1].append(param)
        size += param.numel() * param.element_size()
    return [_bucket(group) for group in groups]


def _bucket(params: list[nn.Parameter]) -> _Bucket:
    flat = torch.zeros(sum(p.numel() for p in params), dtype=params[0].dtype, device=params[0].device)
    parts = flat.split([p.numel() for p in params])
    views = [part.view(p.shape) for part, p in zip(parts, params, strict=True)]
    return _Bucket(params, flat, views, [False] * len(params))
