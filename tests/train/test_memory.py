import subprocess
import sys

import pytest
import torch

from isthmus.train.memory import device_memory

PROGRAM = """
import resource, sys
import torch
from isthmus.train.memory import keep_freed_memory
if not keep_freed_memory():
    sys.exit("unsupported")
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(8 << 18) for _ in range(16)]
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def test_freed_memory_comes_back_without_page_faults():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    if done.stderr.strip() == "unsupported":
        return
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8192, "of 32,768 pages"


def test_of_a_cpu_the_system_tells():
    assert device_memory("cpu") == (0, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA chip")
def test_what_tensors_take_of_a_chip_and_could_take():
    used, limit = device_memory("cuda:0")
    kept = torch.ones(64 << 20, dtype=torch.uint8, device="cuda:0")
    more, still = device_memory("cuda:0")
    assert more - used == kept.numel()
    assert used < limit <= torch.cuda.get_device_properties(0).total_memory
    assert still - limit < 1 << 30
