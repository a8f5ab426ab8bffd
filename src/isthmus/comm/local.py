"""Ranks forked from this process, for numerics checks and benchmarks that need a few on one machine."""

import os
import selectors
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
import torch

from isthmus.comm.collective import Collective
from isthmus.comm.site_group import SiteRank, init_site_group
from isthmus.errors import CheckFailedError

Work = Callable[[Collective], Any]


def run_ranks(work: Work, world_size: int, timeout_s: float = 60.0) -> list[Any]:
    """Run `work` in `world_size` forked processes joined by gloo; what they return (JSON), in order of rank.

    A fork starts in milliseconds where a fresh interpreter imports torch for seconds. Only a process that
    never ran a second thread may be forked: call this from one with a single OpenMP thread. CheckFailedError
    has the traceback of the first rank that failed; all are killed then, or after `timeout_s`.
    """
    port = free_port()
    pids: list[int] = []
    pipes = selectors.DefaultSelector()
    for rank in range(world_size):
        receiver, sender = os.pipe()
        pid = os.fork()
        if pid == 0:
            place = SiteRank(rank=rank, world_size=world_size, master_port=port)
            _run_child(work, place, sender, timeout_s)
        os.close(sender)
        pids.append(pid)
        pipes.register(receiver, selectors.EVENT_READ, rank)
    try:
        return _gather(pipes, world_size, time.monotonic() + timeout_s)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for key in list(pipes.get_map().values()):
            os.close(key.fd)
        pipes.close()


def _gather(pipes: selectors.BaseSelector, world_size: int, deadline_s: float) -> list[Any]:
    received = [b""] * world_size
    open_pipes = world_size
    while open_pipes:
        ready = pipes.select(max(0.0, deadline_s - time.monotonic()))
        if not ready:
            raise CheckFailedError("the ranks did not finish in time", where="run_ranks")
        for key, _ in ready:
            chunk = os.read(key.fd, 1 << 20)
            if chunk:
                received[key.data] += chunk
                continue
            pipes.unregister(key.fd)
            os.close(key.fd)
            open_pipes -= 1
            _check(key.data, received[key.data])
    return [msgspec.json.decode(data)["value"] for data in received]


def _check(rank: int, data: bytes) -> None:
    reply = msgspec.json.decode(data) if data else {"error": "it died without a word"}
    if "error" in reply:
        raise CheckFailedError(f"a rank failed:\n{reply['error']}", where=f"rank {rank}")


def _run_child(work: Work, place: SiteRank, sender: int, timeout_s: float) -> NoReturn:
    """Never returns into the parent's code, nor runs its exit handlers."""
    try:
        torch.set_num_threads(1)
        group = init_site_group(place, "gloo", timeout_s)
        reply = {"value": work(group)}
        group.barrier()
    except BaseException:
        reply = {"error": traceback.format_exc()}
    with os.fdopen(sender, "wb") as stream:
        stream.write(msgspec.json.encode(reply))
    os._exit(0)


def free_port() -> int:
    """A loopback TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
