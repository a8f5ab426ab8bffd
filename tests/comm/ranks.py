"""Collectives over three forked ranks, run by test_collective.py in a process of its own, without threads."""

import json
import os
import sys

import torch

from isthmus.comm.collective import Collective
from isthmus.comm.local import free_port, run_ranks
from isthmus.comm.site_group import SiteRank, init_site_group
from isthmus.errors import CheckFailedError, UnreachableError


def exchange(group: Collective) -> dict:
    first = torch.full((5,), float(group.rank + 1))
    second = torch.arange(3.0)
    pending = group.start_all_reduce_(first)
    group.all_reduce_(second)
    pending.wait()
    third = torch.full((2,), float(group.rank))
    group.broadcast_(third, root=2)
    group.barrier()
    return {
        "sum": first.tolist(),
        "second": second.tolist(),
        "broadcast": third.tolist(),
        "agree": group.agree(-(2**40) - group.rank),
        "share": group.share([group.rank, 2**40 + group.rank], root=1),
    }


def survivors_of_a_dead_rank() -> list[str]:
    """What ranks 0 and 2 are told when rank 1 exits without a word. `run_ranks` would end them first."""
    port = free_port()
    replies, sender = os.pipe()
    pids = [os.fork() or survive(rank, port, sender) for rank in range(3)]
    os.close(sender)
    with os.fdopen(replies) as stream:
        lines = stream.read().splitlines()
    for pid in pids:
        os.waitpid(pid, 0)
    return sorted(lines)


def survive(rank: int, port: int, sender: int) -> int:
    group = init_site_group(SiteRank(rank=rank, world_size=3, master_port=port), "gloo", 10.0)
    group.barrier()
    if rank == 1:
        os._exit(1)
    try:
        group.all_reduce_(torch.ones(1000))
        os.write(sender, b"nothing was reported\n")
    except UnreachableError as error:
        os.write(sender, f"{error.where}: {error.hint}\n".encode())
    os._exit(0)


def failure_of_one_rank() -> str:
    def work(group: Collective) -> None:
        group.barrier()
        if group.rank == 1:
            raise ValueError("planted")
        group.barrier()

    try:
        run_ranks(work, 3, 20.0)
    except CheckFailedError as error:
        return str(error)
    return "no error"


def main() -> None:
    torch.set_num_threads(1)
    report = {
        "exchange": run_ranks(exchange, 3),
        "survivors": survivors_of_a_dead_rank(),
        "failure": failure_of_one_rank(),
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
