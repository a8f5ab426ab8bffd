"""One rank of one site: `python -m isthmus.train --run-dir RUN --site NAME`, started as torchrun or srun
do.

With `--line` the site is one of several: its leases and parameters come through that socket from the
site's client, and the finished model is written by whoever owns the server. Without, the site trains
alone and writes it itself.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import xxhash

from isthmus import chips
from isthmus.comm.site_group import init_site_group, site_rank
from isthmus.data.dataset import Dataset, prepare
from isthmus.errors import CorruptError, IsthmusError, StorageError
from isthmus.journal import events
from isthmus.journal.writer import Journal
from isthmus.models.transformer import expert_groups
from isthmus.outer.site import Site, SiteJob
from isthmus.planner.plan import Plan
from isthmus.rundir import RunDir
from isthmus.spec.load import load_run
from isthmus.spec.run import RunSpec
from isthmus.train.export import save_final, save_tokenizer
from isthmus.train.feed import Feed, LocalFeed
from isthmus.train.job import Job, Outcome
from isthmus.train.learner import Learner
from isthmus.train.loop import train
from isthmus.train.memory import keep_freed_memory
from isthmus.train.signals import Leave
from isthmus.train.site_feed import SiteFeed
from isthmus.weights.folder import read_card

GROUP_TIMEOUT_S = 900.0
"""Longer than rank 0 may keep the others waiting: for the server at the start, for a last checkpoint."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="isthmus.train")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--site", required=True)
    parser.add_argument("--line", default="", help="socket of the site's client")
    options = parser.parse_args(argv)
    keep_freed_memory()
    try:
        run_rank(RunDir.existing(options.run_dir), options.site, options.line)
    except IsthmusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run_rank(run_dir: RunDir, site: str, line: str) -> Outcome:
    """This process's part of the run, as the environment places it."""
    run, plan = load_run(run_dir.run_yaml), read_plan(run_dir)
    place = site_rank(os.environ)
    job = Job(run, plan, site, run_dir.site(site), place.local_rank, alone=not line)
    chip = chips.get(plan.site(site).chips[place.rank])
    chip.probe()  # what is missing on this node is told before anything is built
    with ExitStack() as stack:
        leave = stack.enter_context(Leave())
        journal = stack.enter_context(Journal(run_dir.path, f"rank/{site}/{place.rank}"))
        dataset = prepare(run.data, run.model.vocab_size)
        group = init_site_group(place, chip.backend, GROUP_TIMEOUT_S, chip.device(place.local_rank))
        stack.callback(group.close)
        opened: list[Learner] = []

        def open_feed(learner: Learner) -> Feed:
            opened.append(learner)
            _save_tokenizer(job, dataset, journal)
            if not line:
                return LocalFeed(plan.total_samples)
            joined = stack.enter_context(Site(learner.model, line=line, job=site_job(job, dataset, learner)))
            return SiteFeed(joined, plan.total_samples)

        outcome = train(job, dataset, group, journal, leave, open_feed)
        if opened and job.alone and not leave.asked:
            save_final(
                run_dir.final,
                opened[0].parameters(),
                run.model,
                dataset.tokenizer,
                tokens=plan.total_samples * run.data.seq_len,
                version=0,
            )
    return outcome


def read_plan(run_dir: RunDir) -> Plan:
    """Raises CorruptError if plan.json is not a plan."""
    try:
        return msgspec.json.decode(run_dir.plan.read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError) as error:
        raise CorruptError(
            f"the plan cannot be read: {error}",
            where=str(run_dir.plan),
            hint="start the run again with `isthmus train`, which writes it",
        ) from error


def site_job(job: Job, dataset: Dataset, learner: Learner) -> SiteJob:
    """What the server compares between sites, and what it needs to know of this model."""
    return SiteJob(
        model_hash=xxhash.xxh3_128_hexdigest(msgspec.json.encode(job.run.model) + _start(job.run)),
        data_hash=dataset.fingerprint,
        batch_size=job.plan.batch_size,
        num_fragments=job.plan.fragments,
        groups=expert_groups(learner.model),
    )


def _start(run: RunSpec) -> bytes:
    """What tells the first weights of `train.init_from` from others: sites must start from the same."""
    if not run.train.init_from:
        return b""
    return msgspec.json.encode(read_card(Path(run.train.init_from).expanduser()).shards)


def _save_tokenizer(job: Job, dataset: Dataset, journal: Journal) -> None:
    """For `isthmus generate` from a checkpoint; a disk that refuses it stops nothing."""
    try:
        save_tokenizer(job.folder, dataset.tokenizer)
    except StorageError as error:
        journal.emit(events.Fault(subject=f"site {job.site}", kind="disk", detail=str(error)))


if __name__ == "__main__":
    sys.exit(main())
