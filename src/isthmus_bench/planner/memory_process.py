"""A training process of ours: resident memory that a model in training adds, measured and predicted.

`python -m isthmus_bench.planner.memory_process` measures one case, given as JSON, and prints bytes.
"""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec

from isthmus.planner.cost.convention import ISTHMUS
from isthmus.planner.cost.shapes import shapes_of
from isthmus.planner.cost.stage_memory import pipeline_memory
from isthmus.planner.layout import Layout
from isthmus.spec.model import ModelSpec

STEPS = 3


class ProcessCase(msgspec.Struct, frozen=True):
    name: str
    model: ModelSpec
    micro_batch: int
    seq_len: int
    precision: Literal["fp32", "bf16"] = "fp32"


_MODEL = ModelSpec(
    vocab_size=8192, hidden_size=512, num_layers=8, num_heads=8, num_kv_heads=4, head_dim=64, ffn_size=1408
)
CASES = [
    ProcessCase("states", _MODEL, 1, 256),
    ProcessCase("activations", _MODEL, 4, 512),
    ProcessCase("bf16", _MODEL, 4, 1024, "bf16"),
    ProcessCase(
        "experts",
        msgspec.structs.replace(_MODEL, num_experts=8, top_k=2, expert_ffn_size=704, tied_head=False),
        4,
        512,
    ),
]


def predict(case: ProcessCase) -> float:
    """Bytes beside what the process has without a model."""
    layout = Layout(micro_batch=case.micro_batch, seq_len=case.seq_len, precision=case.precision, sharding=0)
    bounds = [(0, case.model.num_layers)]
    return pipeline_memory(shapes_of(case.model), layout, bounds, ISTHMUS)[0].total


def measure(case: ProcessCase) -> float:
    """In a process of its own."""
    command = [sys.executable, "-m", "isthmus_bench.planner.memory_process"]
    done = subprocess.run(
        command, input=msgspec.json.encode(case), capture_output=True, check=True, timeout=300
    )
    return float(done.stdout)


def _grow(case: ProcessCase) -> int:
    """Peak of the resident set in `STEPS` steps less what it is before the model; a small model runs first,
    so that kernels and buffers of the libraries are there."""
    import numpy as np
    import torch

    from isthmus.comm.collective import SoloCollective
    from isthmus.models.init import init_weights
    from isthmus.models.transformer import Transformer
    from isthmus.spec.run import TrainSpec
    from isthmus.train.learner import Learner
    from isthmus.train.memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32

    def train(spec: ModelSpec, seq_len: int, micro_batch: int) -> None:
        model = Transformer(spec, dtype)
        init_weights(model, 0)
        learner = Learner(model, TrainSpec(precision=case.precision), SoloCollective(), micro_batch)
        draws = np.random.default_rng(0)
        for _ in range(STEPS):
            tokens = draws.integers(0, spec.vocab_size, (micro_batch, seq_len + 1)).astype(np.int32)
            learner.step((tokens, np.zeros_like(tokens)), 1e-4)

    small = msgspec.structs.replace(case.model, num_layers=1, hidden_size=64, ffn_size=64, expert_ffn_size=64)
    train(small, 64, 1)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    train(case.model, case.seq_len, case.micro_batch)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel tells no {field}")


if __name__ == "__main__":
    print(_grow(msgspec.json.decode(sys.stdin.buffer.read(), type=ProcessCase)))
