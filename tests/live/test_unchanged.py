"""Scripts that know nothing of us: started together, and together again."""

from isthmus.journal import events
from isthmus.journal.reader import read

from .conftest import start

DDP = """
import os, signal, sys, torch
import torch.distributed as dist
from torch import nn

dist.init_process_group("gloo")
rank, attempt = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
step = 0
if os.path.exists("saved.pt"):
    saved = torch.load("saved.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    step = saved["step"]
if rank == 0:
    print("from step", step, "attempt", attempt, "ports", os.environ["MASTER_PORT"])
while step < 30:
    x_BD = torch.randn(4, 8, generator=torch.Generator().manual_seed(step * 100 + rank))
    optimizer.zero_grad()
    (model(x_BD) - x_BD).pow(2).mean().backward()
    optimizer.step()
    step += 1
    if step == 17 and rank == 1 and attempt == 0 and len(sys.argv) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 0 and step % 5 == 0:
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(saved, "saving.pt")
        os.replace("saving.pt", "saved.pt")
if rank == 0:
    print("end", sum(p.double().sum().item() for p in model.parameters()))
dist.destroy_process_group()
"""


def test_a_script_resumes_from_its_own_checkpoint(tmp_path):
    ends = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train.py").write_text(DDP)
        more = ["die"] if name == "killed" else []
        words = ["run", "--nproc", 2, "--run-dir", "run", "--", "python", "-u", "train.py", *more]
        code, told = start(folder, *words)
        assert code == 0, told
        ends += [line for line in told.splitlines() if line.startswith("end ")]
    assert "from step 15 attempt 1" in told
    assert len(set(ends)) == 1
    (healed,) = [event for event in read(tmp_path / "killed" / "run") if isinstance(event, events.Healed)]
    assert (healed.step, healed.lost_steps) == (15, 2)
    assert healed.subjects == ["rank-here-1"]


def test_an_error_at_the_very_start_is_told_at_once(tmp_path):
    (tmp_path / "train.py").write_text("import os\nif os.environ['RANK'] == '1':\n    raise KeyError('lr')\n")
    code, told = start(tmp_path, "run", "--nproc", 2, "--run-dir", "run", "--", "train.py")
    assert code == 1
    assert "KeyError: 'lr' at train.py:3" in told
    assert told.count("Traceback") == 1
    assert not any(isinstance(event, events.Healed) for event in read(tmp_path / "run"))


def test_output_and_exit_of_a_script_without_torch(tmp_path):
    (tmp_path / "train.py").write_text("import os\nprint('I am', os.environ['RANK'])\n")
    code, told = start(tmp_path, "run", "--nproc", 2, "--run-dir", "run", "--tee", "all", "--", "train.py")
    assert code == 0
    assert {"[rank 0] I am 0", "[rank 1] I am 1"} <= set(told.splitlines())
