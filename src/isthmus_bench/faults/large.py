"""Logs as large as those of a real run: 64 ranks that mostly tell of steps, a fault somewhere inside."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

NUM_RANKS = 64
CULPRIT = 37
_START = datetime(2026, 3, 1, 8, 0, 0)
_BLOCK_STEPS = 400
"""Steps that are written out at a time; all blocks of a rank differ in their times and numbers."""

Writer = Callable[[random.Random, int, int, datetime], str]


def _megatron(rng: random.Random, rank: int, step: int, now: datetime) -> str:
    return (
        f" [{now:%Y-%m-%d %H:%M:%S}.{rng.randrange(10**6):06d}] iteration {step:8d}/  500000 | consumed "
        f"samples: {step * 1024:12d} | elapsed time per iteration (ms): {rng.uniform(4000, 4400):.1f} | "
        f"throughput per GPU (TFLOP/s/GPU): {rng.uniform(390, 420):.1f} | learning rate: 1.499E-04 | "
        f"global batch size:  1024 | lm loss: {rng.uniform(2, 2.4):.6E} | loss scale: 1.0 | "
        f"grad norm: {rng.uniform(0.3, 0.6):.3f} | number of skipped iterations:   0 | "
        f"number of nan iterations:   0 |"
    )


def _nccl(rng: random.Random, rank: int, step: int, now: datetime) -> str:
    peer, channel = rng.randrange(NUM_RANKS), rng.randrange(32)
    return (
        f"gpu{rank // 8:03d}:{4200 + rank}:{5200 + rank} [{rank % 8}] NCCL INFO Channel {channel:02d}/0 : "
        f"{rank}[{rank % 8}] -> {peer}[{peer % 8}] [send] via NET/IB/{rng.randrange(8)}/GDRDMA"
    )


def _glog(rng: random.Random, rank: int, step: int, now: datetime) -> str:
    return (
        f"[rank{rank}]:I{now:%m%d %H:%M:%S}.{rng.randrange(10**6):06d} {4200 + rank} "
        f"torch/distributed/checkpoint/state_dict_saver.py:215] shard {step} of rank {rank} staged, "
        f"{rng.uniform(1, 9):.2f} GiB"
    )


def _plain(rng: random.Random, rank: int, step: int, now: datetime) -> str:
    return (
        f"{now:%Y-%m-%d %H:%M:%S},{rng.randrange(1000):03d} INFO train: [Rank {rank}] step={step} tokens/s="
        f"{rng.randrange(10**5)} data_wait_ms={rng.uniform(0, 9):.2f} memory={rng.uniform(40, 60):.1f}GiB"
    )


_BENIGN: tuple[Writer, ...] = (_megatron, _plain, _glog, _nccl, _plain, _plain)

_RARE = (
    "UserWarning: The given buffer is not writable, and PyTorch does not support non-writable tensors.",
    "WARNING: dataloader prefetch queue below 2 batches",
    "NCCL INFO comm 0x5581c2b0 rank {rank} nranks 64 cudaDev 0 busId 18000 - Init COMPLETE",
)


def write(folder: Path, num_bytes: int, seed: int = 0) -> int:
    """One file per rank, `num_bytes` in all. Device memory errors end rank 37; the others time out in the
    all-reduce it does not reach. Returns the bytes written.
    """
    written = 0
    for rank in range(NUM_RANKS):
        rng = random.Random(f"{seed}/{rank}")
        path = folder / f"rank_{rank}.log"
        with path.open("w") as file:
            now = _START
            step = 0
            while file.tell() < num_bytes // NUM_RANKS:
                file.write(_block(rng, rank, step, now))
                step += _BLOCK_STEPS
                now += timedelta(seconds=4 * _BLOCK_STEPS)
            file.write(_end(rank, now))
        written += path.stat().st_size
    return written


def _block(rng: random.Random, rank: int, step: int, now: datetime) -> str:
    lines = []
    for index in range(_BLOCK_STEPS):
        at = now + timedelta(seconds=4 * index)
        lines += [write(rng, rank, step + index, at) for write in _BENIGN[1 if rank else 0 :]]
        if rng.random() < 0.02:
            lines.append(rng.choice(_RARE).format(rank=rank))
    return "\n".join(lines) + "\n"


def _end(rank: int, now: datetime) -> str:
    if rank == CULPRIT:
        return (
            f"{now:%Y-%m-%d %H:%M:%S},101 ERROR train: step failed\n"
            f"[rank{rank}]: Traceback (most recent call last):\n"
            f'[rank{rank}]:   File "train.py", line 411, in step\n'
            f"[rank{rank}]: torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered\n"
        )
    at = now + timedelta(minutes=10, milliseconds=rank)
    return (
        f"[rank{rank}]:[E{at:%m%d %H:%M:%S}.{rank:06d}000 ProcessGroupNCCL.cpp:632] [Rank {rank}] Watchdog "
        f"caught collective operation timeout: WorkNCCL(SeqNum=90211, OpType=ALLREDUCE, NumelIn=1048576, "
        f"NumelOut=1048576, Timeout(ms)=600000) ran for 600{rank:03d} milliseconds before timing out.\n"
    )
