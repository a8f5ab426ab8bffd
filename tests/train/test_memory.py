import subprocess
import sys

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
