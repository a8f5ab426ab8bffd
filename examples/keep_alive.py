"""A small classifier whose ranks may be killed: `isthmus run --nproc 2 -- python examples/keep_alive.py`.

While it trains, kill the process that it names with `kill -9`: it goes on within a fraction of a second, and
ends with the same weights. A number says for how many steps. `python examples/keep_alive.py` is one rank.
"""

import os
import sys

import torch
from torch import nn

from isthmus import live

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
BATCH, DIM, CLASSES = 64, 32, 10


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x_BD and labels_B of this rank in this step, whoever asks, and however often."""
    random = torch.Generator().manual_seed(step * 1_000 + rank)
    x_BD = torch.randn(BATCH, DIM, generator=random)
    return x_BD, x_BD[:, :CLASSES].argmax(dim=1)


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(DIM, 128), nn.ReLU(), nn.Linear(128, CLASSES))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
keep = live.join(model, optimizer)
print("rank", keep.rank, "is process", os.getpid())
for step in keep.steps(STEPS):
    with keep.step():
        inputs, labels = batch(step, keep.rank)
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        keep.average_gradients()
        optimizer.step()
        keep.tell(loss=loss)
    if keep.rank == 0 and step % 100 == 0:
        print(f"step {step:4d}  loss {loss.item():.4f}")
if keep.rank == 0:
    print("sum of the weights", sum(p.double().sum().item() for p in model.parameters()))
