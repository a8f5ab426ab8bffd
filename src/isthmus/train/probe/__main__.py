"""One rank of `isthmus probe`. Rank 0 tells how far it is, a line each, and writes the profile."""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from isthmus import __version__, chips
from isthmus.comm.collective import Collective
from isthmus.comm.site_group import SiteRank, init_site_group, site_rank
from isthmus.data.dataset import prepare
from isthmus.errors import IsthmusError
from isthmus.planner.probed.profile import Profile
from isthmus.spec.load import load_run
from isthmus.spec.run import RunSpec
from isthmus.train.memory import keep_freed_memory
from isthmus.train.probe.blocks import Bench, Plan, RandomRows, probe_run, sizes_up_to, take_steps
from isthmus.train.probe.collectives import TIMEOUT_S, collective_rates
from isthmus.train.probe.machine import matmul_rates, memory_gb_s
from isthmus.train.probe.push import push_times
from isthmus.train.probe.results import Results


class Effort(msgspec.Struct, frozen=True):
    longest_product_s: float
    collectives_s: float
    blocks_s: float


FULL, QUICK = Effort(0.02, 4.0, 14.0), Effort(0.001, 0.5, 0.5)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="isthmus.train.probe")
    parser.add_argument("--folder", type=Path, required=True, help="for run.yaml and the profile")
    parser.add_argument("--chip", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--random-rows", action="store_true")
    options = parser.parse_args(argv)
    keep_freed_memory()
    try:
        profile = _probe(options)
    except IsthmusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if profile:
        (options.folder / "profile.json").write_bytes(msgspec.json.encode(profile))
    return 0


def _probe(options: argparse.Namespace) -> Profile | None:
    """None on other ranks than 0."""
    chip, place = chips.get(options.chip), site_rank(os.environ)
    facts = chip.probe()
    effort = QUICK if options.quick else FULL
    device = chip.device(place.local_rank)
    group = init_site_group(place, chip.backend, TIMEOUT_S, device)
    run_file = options.folder / "run.yaml"
    run = load_run(run_file) if run_file.exists() else None
    fixed_bytes = chip.fixed_bytes()
    found: dict[str, Any] = {"blocks": [], "exchanges": [], "workspaces": []}
    _tell(place, 0.05, "blocks")
    rates, group = collective_rates(chip, place, group, effort.collectives_s)
    if run:
        found = _blocks(run, group, place, options)
    _tell(place, 0.7, "memory")
    group.barrier()
    gb_s = memory_gb_s(chip, device, effort.longest_product_s * 20)
    _tell(place, 0.75, "matrix products")
    group.barrier()
    matmuls = list(matmul_rates(chip, device, effort.longest_product_s))
    group.barrier()
    group.close()
    _tell(place, 1.0, "done")
    if place.rank:
        return None
    return Profile(
        chip=options.chip,
        device=facts.model,
        threads=torch.get_num_threads() if device == "cpu" else 0,
        ranks=place.world_size,
        memory_bytes=facts.memory_bytes,
        memory_gb_s=gb_s,
        matmuls=matmuls,
        collectives=rates,
        fixed_bytes=fixed_bytes,
        versions={
            "isthmus": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        **found,
    )


def _blocks(
    whole: RunSpec, group: Collective, place: SiteRank, options: argparse.Namespace
) -> dict[str, Any]:
    """The profile's fields that are of a model."""
    effort, run = QUICK if options.quick else FULL, probe_run(whole)
    dataset: Any = (
        RandomRows(run.model.vocab_size, run.data.seq_len)
        if options.random_rows
        else prepare(run.data, run.model.vocab_size)
    )
    micro_batch = run.train.micro_batch_size or max(1, run.train.batch_size // place.world_size)
    plan = Plan(sizes_up_to(micro_batch, options.quick), effort.blocks_s)
    with Bench(run, dataset, group, (options.chip, options.folder, place.local_rank)) as bench:
        for state in take_steps(bench, plan):
            if not isinstance(state, list):
                _tell(place, 0.2 + 0.5 * state, "blocks")
                continue
            results = Results(whole, run, bench.learner, group)
            push = results.push(push_times(bench.learner.model, whole.outer)) if place.rank == 0 else []
            return {
                "blocks": [*results.blocks(state), *push],
                "exchanges": results.exchanges(state),
                "workspaces": results.workspaces(state),
            }
    raise AssertionError("the steps end with what was taken")


def _tell(place: SiteRank, done: float, what: str) -> None:
    if place.rank == 0:
        print(f"probe {done:.3f} {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
