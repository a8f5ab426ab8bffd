"""A model's parameters, to and from the vectors that its site's ranks and client share."""

from collections.abc import Iterator

import torch
from torch import nn

from isthmus.outer import bridge
from isthmus.outer.layout import Layout
from isthmus.outer.site_state import Kept


class Exchange:
    """Copies a model's parameters to and from the shared vectors.

    Parameters may live on any device and have any float type; the vectors are fp32 on the host. Where the
    parameters are fp32 on the host, nothing is copied twice.
    """

    def __init__(self, model: nn.Module, layout: Layout, vectors: bridge.Vectors):
        self._parameters = dict(model.named_parameters())
        self._pieces = [(p.tensor, p.start, p.offset, p.length) for p in layout.pieces()]
        self._reference = torch.from_numpy(vectors.reference)
        self._snapshot = torch.from_numpy(vectors.snapshot)
        self._base = torch.from_numpy(vectors.base)

    def _slices(self) -> Iterator[tuple[torch.Tensor, slice]]:
        for name, start, offset, length in self._pieces:
            flat = self._parameters[name].detach().view(-1)[start : start + length]
            yield flat, slice(offset, offset + length)

    def save(self) -> None:
        """snapshot := local parameters."""
        for local, where in self._slices():
            self._snapshot[where].copy_(local)

    def load(self) -> None:
        """local parameters := base."""
        self._load(self._base)

    def load_kept(self, where: Kept) -> None:
        """local parameters := the vector that holds them."""
        self._load(self._snapshot if where == Kept.SNAPSHOT else self._reference)

    def _load(self, vector: torch.Tensor) -> None:
        for local, where in self._slices():
            local.copy_(vector[where])

    def take_up(self) -> None:
        """local := (local - reference) + base; exact where local equals reference bit for bit."""
        for local, where in self._slices():
            progress = (
                local if local.device.type == "cpu" and local.dtype == torch.float32 else local.cpu().float()
            )
            progress.sub_(self._reference[where]).add_(self._base[where])
            if progress is not local:
                local.copy_(progress)
