"""A rank under torchrun that sums a tensor with the others for ever and writes its pid and step to a file."""

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist


def main() -> None:
    dist.init_process_group("gloo")
    place = Path(sys.argv[1]) / str(dist.get_rank())
    aside = place.with_suffix(".tmp")
    step = 0
    while True:
        dist.all_reduce(torch.ones(1000))
        step += 1
        aside.write_text(f"{os.getpid()} {step}")
        aside.replace(place)
        time.sleep(0.02)


if __name__ == "__main__":
    main()
