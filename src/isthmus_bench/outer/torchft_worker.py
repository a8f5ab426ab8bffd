"""One site of a torchft DiLoCo run, with our model, data, inner optimizer and journal.

Runs in an interpreter that has isthmus and torchft (see `torchft_peer`). Only the exchange between the sites
differs from ours: the inner step is the same code.
"""

import argparse
import importlib
import os
import sys
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from isthmus.data.dataset import open_prepared
from isthmus.journal.events import StepDone
from isthmus.journal.writer import Journal
from isthmus.models.transformer import Transformer
from isthmus.spec.load import load_run
from isthmus.spec.run import RunSpec
from isthmus.train.learner import Learner
from isthmus.train.optimizer import Optimizer
from isthmus.train.schedule import learning_rate
from isthmus_bench.outer.federation import Plan, make_layout, make_learner

RETRIES = 5
TIMEOUT = timedelta(seconds=60)
QUORUM_TIMEOUT = timedelta(seconds=60)


class Hooked(torch.optim.Optimizer):
    """Our inner optimizer where torchft expects one of torch's: its hooks run after each step."""

    def __init__(self, model: nn.Module, inner: Optimizer):
        super().__init__(model.parameters(), {})
        self._inner = inner
        self.lr = 0.0
        self.stepped_s = 0.0

    def step(self, closure: Any = None) -> Any:
        self._inner.step(self.lr)
        self.stepped_s = time.perf_counter()


class Timed:
    """What the learner calls. `wait_s`: seconds the last step spent in torchft's hooks."""

    def __init__(self, hooked: Hooked, inner: Optimizer):
        self._hooked, self._inner = hooked, inner
        self.wait_s = 0.0
        self.reset, self.state, self.restore = inner.reset, inner.state, inner.restore

    def step(self, lr: float) -> None:
        self._hooked.lr = lr
        self._hooked.step()
        self.wait_s = time.perf_counter() - self._hooked.stepped_s


def fragments_of(model: Transformer, count: int) -> list[nn.Module]:
    """Consecutive layers; the embedding goes with the first ones, norm and head with the last."""
    layers = list(model.layers)
    bounds = [len(layers) * index // count for index in range(count + 1)]
    parts = [layers[start:end] for start, end in pairwise(bounds)]
    parts[0].insert(0, model.embed)
    parts[-1].extend(module for name, module in model.named_children() if name in ("norm", "head"))
    return [nn.ModuleList(part) for part in parts]


def make_manager(options: argparse.Namespace, learner: Learner) -> Any:
    """A replica group of this one process."""
    torchft = importlib.import_module("torchft")
    store = TCPStore(options.host, 0, is_master=True, wait_for_workers=False)

    def load(state: dict[str, Any]) -> None:
        learner.model.load_state_dict(state["model"])
        learner.optimizer.restore(state["moments"])

    manager = torchft.Manager(
        pg=torchft.ProcessGroupGloo(timeout=TIMEOUT),
        min_replica_size=options.num_sites,
        use_async_quorum=False,
        load_state_dict=load,
        state_dict=lambda: {"model": learner.model.state_dict(), "moments": learner.optimizer.state()},
        replica_id=f"site{options.site}",
        hostname=options.host,
        store_addr=options.host,
        store_port=store.port,
        rank=0,
        world_size=1,
        lighthouse_addr=options.lighthouse,
        timeout=TIMEOUT,
        quorum_timeout=QUORUM_TIMEOUT,
        connect_timeout=TIMEOUT,
        init_sync=False,
        quorum_retries=RETRIES,
    )
    manager.own_store = store
    return manager


def train(options: argparse.Namespace, run: RunSpec, journal: Journal) -> None:
    """Trains `num_steps` steps; with --versions writes the parameters after each outer step there."""
    dataset = open_prepared(run.data, run.model.vocab_size)
    plan = Plan(options.num_sites, run.train.batch_size, options.num_steps)
    learner = make_learner(run, plan.batch_size)
    hooked = Hooked(learner.model, learner.optimizer)
    timed = learner.optimizer = Timed(hooked, learner.optimizer)
    layout = make_layout(learner)
    flat = np.empty(layout.size, np.float32)
    parts = fragments_of(learner.model, options.fragments)
    outer = [torch.optim.SGD(part.parameters(), lr=run.outer.lr, momentum=run.outer.momentum, nesterov=True)
             for part in parts]  # fmt: skip
    diloco = importlib.import_module("torchft.local_sgd").DiLoCo(
        make_manager(options, learner), parts, hooked, outer,
        sync_every=run.outer.inner_steps, fragment_sync_delay=options.delay, use_bucketization=True,
    )  # fmt: skip
    with diloco:
        boundary_s = time.perf_counter()
        for step in range(plan.num_steps):
            rows = dataset.batch(plan.samples(step, options.site))
            lr = learning_rate(run.train, plan.progress(step))
            result = learner.step(rows, lr)
            if options.versions and (step + 1) % run.outer.inner_steps == 0:
                layout.pack(learner.parameters(), flat)
                np.save(options.versions / f"{(step + 1) // run.outer.inner_steps}.npy", flat)
            now_s = time.perf_counter()
            journal.emit(
                StepDone(
                    site=f"site{options.site}",
                    step=step + 1,
                    tokens=plan.batch_size * dataset.seq_len,
                    loss=result.loss,
                    lr=lr,
                    grad_norm=result.grad_norm,
                    step_s=now_s - boundary_s,
                    wait_s=timed.wait_s,
                    version=(step + 1) // run.outer.inner_steps,
                )
            )
            boundary_s = now_s


def main() -> int:
    parser = argparse.ArgumentParser(description="one site of a torchft DiLoCo run")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--site", type=int, required=True)
    parser.add_argument("--num-sites", type=int, default=2)
    parser.add_argument("--num-steps", type=int, required=True)
    parser.add_argument("--fragments", type=int, default=1)
    parser.add_argument("--delay", type=int, default=0)
    parser.add_argument("--lighthouse", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--versions", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with Journal(options.run_dir, f"rank/site{options.site}/0") as journal:
        train(options, load_run(options.run_dir / "run.yaml"), journal)
    sys.stdout.flush()
    os._exit(0)  # torchft's threads would keep the process


if __name__ == "__main__":
    main()
