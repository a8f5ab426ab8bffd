"""A plain data-parallel loop that other people's launchers keep alive; a script, which imports torch alone.

Gloo, flat gradients, a checkpoint of rank 0 every few steps from which it resumes. `--way inprocess` wraps
the loop as nvidia-resiliency-ext does, `--way torchft` makes each process a replica group of one rank. Each
process tells what it does in a file of its own, a JSON object a line.
"""

import argparse
import datetime
import importlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

WIDTH, HEADS, LAYERS, FFN, VOCABULARY = 128, 4, 4, 516, 4096
ROWS, LENGTH = 1, 64
EVERY = 10
"""Steps between checkpoints."""
SOON = datetime.timedelta(seconds=0.1)


class Model(nn.Module):
    """1.3M parameters, about as many as ours."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        layers = [nn.TransformerEncoderLayer(WIDTH, HEADS, FFN, 0.0, batch_first=True) for _ in range(LAYERS)]
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        logits_BTV = self.layers(self.embed(tokens_BT)) @ self.embed.weight.T
        return nn.functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT.flatten())


class Loop:
    """Owns model, optimizer and the file of what was done."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.step = options, 0
        torch.manual_seed(0)
        self.model = Model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3)
        self._file = open(options.folder / f"told-{os.getpid()}.jsonl", "a", buffering=1)  # noqa: SIM115

    def tell(self, what: str, rank: int, quorum: int = 0) -> None:
        event = {"at_s": time.time(), "pid": os.getpid(), "what": what, "rank": rank, "step": self.step}
        self._file.write(json.dumps({**event, "quorum": quorum}) + "\n")

    def state(self) -> dict[str, Any]:
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**parts, "step": self.step}

    def take(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    @property
    def checkpoint(self) -> Path:
        return self.options.folder / "checkpoint.pt"

    def resume(self) -> None:
        if self.checkpoint.exists():
            self.take(torch.load(self.checkpoint, weights_only=True))

    def save(self) -> None:
        fresh = self.checkpoint.with_suffix(".new")
        torch.save(self.state(), fresh)
        fresh.rename(self.checkpoint)

    def gradients(self, rank: int) -> torch.Tensor:
        """Of this rank's rows, as one vector."""
        rows = torch.Generator().manual_seed(1000 * self.step + rank)
        self.model(torch.randint(VOCABULARY, (ROWS, LENGTH), generator=rows)).backward()
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])

    def put(self, flat: torch.Tensor) -> None:
        sizes = [p.numel() for p in self.model.parameters()]
        for parameter, part in zip(self.model.parameters(), flat.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def train(options: argparse.Namespace, store: dist.Store | None = None) -> None:  # pyright: ignore
    """As torchrun and its likes start it; `store`: of this start alone."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = (rank, world) if store else (-1, -1)
    dist.init_process_group("gloo", None, timeout(options), place[1], place[0], store)
    loop = Loop(options)
    loop.resume()
    loop.tell("begin", rank)
    while loop.step < options.steps:
        began_s = time.monotonic()
        flat = loop.gradients(rank)
        dist.all_reduce(flat)
        loop.put(flat / world)
        loop.update()
        loop.step += 1
        loop.tell("step", rank)
        if rank == 0 and loop.step % EVERY == 0:
            loop.save()
        rest(options, began_s)
    dist.destroy_process_group()


def timeout(options: argparse.Namespace) -> datetime.timedelta:
    return datetime.timedelta(seconds=options.timeout_s)


def rest(options: argparse.Namespace, began_s: float) -> None:
    """Until the step has taken as long as it is to."""
    time.sleep(max(0.0, began_s + options.step_s - time.monotonic()))


def train_inprocess(options: argparse.Namespace) -> None:
    """As the examples of nvidia-resiliency-ext do: the loop starts again in the processes that live, and one
    that waited in reserve takes the place of the dead one.
    """
    inprocess = importlib.import_module("nvidia_resiliency_ext.inprocess")
    ranks = inprocess.rank_assignment
    base = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=os.environ["RANK"] == "0",
        multi_tenant=True,
        wait_for_workers=False,
    )

    def work(call: Any = None) -> None:
        train(options, dist.PrefixStore(str(call.iteration), base))  # pyright: ignore

    work.__annotations__["call"] = inprocess.CallWrapper
    inprocess.Wrapper(
        store_kwargs={"port": options.store_port},
        rank_assignment=inprocess.Compose(ranks.MaxActiveWorldSize(options.ranks), ranks.ShiftRanks()),
        monitor_thread_interval=SOON,
        monitor_process_interval=SOON,
        last_call_wait=SOON,
    )(work)()


def train_torchft(options: argparse.Namespace) -> None:
    torchft = importlib.import_module("torchft")
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    loop = Loop(options)
    manager: Any = torchft.Manager(
        pg=torchft.ProcessGroupGloo(timeout=timeout(options)),
        min_replica_size=options.ranks - 1,
        use_async_quorum=False,
        load_state_dict=loop.take,
        state_dict=loop.state,
        replica_id=f"replica{options.replica}",
        hostname="127.0.0.1",
        store_addr="127.0.0.1",
        store_port=store.port,
        rank=0,
        world_size=1,
        lighthouse_addr=options.lighthouse,
        timeout=timeout(options),
    )
    loop.tell("begin", options.replica)
    while loop.step < options.steps:
        began_s = time.monotonic()
        manager.start_quorum()
        flat = loop.gradients(options.replica)
        manager.allreduce(flat).wait()
        loop.put(flat)
        if manager.should_commit():
            loop.update()
            loop.step = manager.current_step()
            loop.tell("step", options.replica, manager._quorum_id)
        loop.optimizer.zero_grad()
        rest(options, began_s)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--way", choices=("plain", "inprocess", "torchft"), default="plain")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--step-s", type=float, default=0.0)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--store-port", type=int, default=0)
    parser.add_argument("--replica", type=int, default=0)
    parser.add_argument("--lighthouse", default="")
    parser.add_argument("--timeout-s", type=float, default=60.0, help="of a collective")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways: dict[str, Callable[[argparse.Namespace], None]] = {
        "plain": train, "inprocess": train_inprocess, "torchft": train_torchft,
    }  # fmt: skip
    ways[options.way](options)


if __name__ == "__main__":
    main()
