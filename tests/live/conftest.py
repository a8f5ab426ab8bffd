"""Scripts of a user's, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import isthmus

torch.set_num_threads(1)

ISTHMUS = str(Path(sys.executable).with_name("isthmus"))
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))

KEPT = '''
import hashlib, os, sys, torch
from torch import nn
from isthmus import live

steps, out, deaths = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
torch.manual_seed(1)
model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.1), nn.ReLU(), nn.Linear(16, 8))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
keep = live.join(model, optimizer, seed=3, folder=os.environ.get("SAVES"), every=5)

def point(name):
    """Dies here, once, if it is this rank's turn: 'step:rank:name'."""
    death = f"{step}:{keep.rank}:{name}"
    mark = f"{out}.{death}"
    if death in deaths and not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), 9)

for step in keep.steps(steps):
    with keep.step():
        x_BD = torch.randn(4, 8, generator=torch.Generator().manual_seed(step * 100 + keep.rank))
        loss = (model(x_BD) - x_BD).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        point("before")
        keep.average_gradients()
        point("after")
        optimizer.step()
        point("stepped")
        total = loss.detach().clone()
        keep.group.all_reduce_(total)
        keep.tell(loss=loss)
        keep.extra["cursor"] = step + 1
if keep.rank == 0:
    tensors = [*model.parameters(), *(buffer.float() for buffer in model.buffers())]
    data = b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)
    open(out, "w").write(f"{hashlib.md5(data).hexdigest()} {keep.extra['cursor']}")
'''

Said = tuple[int, str]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "kept.py").write_text(KEPT)
    return tmp_path


def start(
    folder: Path, *words: object, launcher: tuple[object, ...] = (ISTHMUS,), **env: str
) -> tuple[int, str]:
    """Runs the command in a folder: (exit code, what it printed)."""
    environment = {**os.environ, "PYTHONPATH": str(Path(isthmus.__file__).parents[1]), **env}
    done = subprocess.run(
        [*map(str, launcher), *map(str, words)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What 30 steps of two ranks lead to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "kept.py").write_text(KEPT)
    code, told = start(folder, "run", "--nproc", 2, "--run-dir", "run", "--", "python", "kept.py", 30, "out")
    assert code == 0, told
    return (folder / "out").read_text()
