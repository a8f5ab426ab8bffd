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
from setproctitle import setproctitle

from isthmus import chips
from isthmus.comm.site_group import init_site_group, site_rank
from isthmus.data.dataset import Dataset, prepare
from isthmus.errors import CorruptError, IsthmusError, StorageError
from isthmus.journal import events
from isthmus.journal.writer import Journal
from isthmus.models.transformer import expert_groups
from isthmus.outer.site import Site, SiteJob
from isthmus.outer.site_state import Stand
from isthmus.planner.plan import Plan
from isthmus.rundir import RunDir
from isthmus.spec.load import load_run
from isthmus.spec.run import RunSpec
from isthmus.train.checkpoint import CHECKPOINTS
from isthmus.train.export import save_final, save_tokenizer
from isthmus.train.feed import Feed, LocalFeed, Start
from isthmus.train.injectors import Injectors, write_down
from isthmus.train.job import Crew, Job, Outcome
from isthmus.train.kept import Kept, KeptBy
from isthmus.train.learner import Learner
from isthmus.train.loop import Keeping, build_learner, train
from isthmus.train.memory import keep_freed_memory
from isthmus.train.nursery import write_to
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
    parser.add_argument("--kept-by", type=Path, help="folder of the agent that keeps this process alive")
    parser.add_argument("--process", default="", help="what that agent calls it")
    options = parser.parse_args(argv)
    keep_freed_memory()
    try:
        work = Work(RunDir.existing(options.run_dir), options.site, options.line)
        if options.kept_by:
            return run_kept(work, KeptBy(options.process, options.kept_by))
        run_rank(work)
    except IsthmusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


class Work:
    """What this process is to train, and what it writes when that is done."""

    def __init__(self, run_dir: RunDir, site: str, line: str):
        self.run_dir, self.site, self.line = run_dir, site, line
        self.run, self.plan = load_run(run_dir.run_yaml), read_plan(run_dir)
        self.dataset: Dataset = prepare(self.run.data, self.run.model.vocab_size)

    def job(self, local_rank: int) -> Job:
        return Job(
            self.run, self.plan, self.site, self.run_dir.site(self.site), local_rank, alone=not self.line
        )

    def chip(self, rank: int) -> chips.Chip:
        chip = chips.get(self.plan.site(self.site).chips[rank])
        chip.probe()  # what is missing on this node is told before anything is built
        return chip

    def train(self, crew: Crew, stack: ExitStack, keeping: Keeping | None = None) -> Outcome:
        def open_feed(learner: Learner, start: Start) -> Feed:
            _save_tokenizer(crew.job, self.dataset, crew.journal)
            if not self.line:
                return LocalFeed(self.plan.total_samples)
            job = site_job(crew.job, self.dataset, learner)
            stand = Stand(step=start.step, samples=tuple(start.ranges), resume=start.is_successor)
            joined = stack.enter_context(Site(learner.model, line=self.line, job=job, stand=stand))
            return SiteFeed(joined, self.plan.total_samples)

        def finish() -> None:
            if crew.job.alone:
                save_final(
                    self.run_dir.final,
                    crew.learner.parameters(),
                    self.run.model,
                    self.dataset.tokenizer,
                    tokens=self.plan.total_samples * self.run.data.seq_len,
                    version=0,
                )

        return train(crew, open_feed, keeping, finish)


def run_rank(work: Work) -> Outcome:
    """This process's part of the run, as the environment places it."""
    place = site_rank(os.environ)
    chip, job = work.chip(place.rank), work.job(place.local_rank)
    with ExitStack() as stack:
        leave = stack.enter_context(Leave())
        journal = stack.enter_context(Journal(work.run_dir.path, f"rank/{work.site}/{place.rank}"))
        group = init_site_group(place, chip.backend, GROUP_TIMEOUT_S, chip.device(place.local_rank))
        stack.callback(group.close)
        crew = Crew(job, work.dataset, group, build_learner(job, group), journal, leave)
        return work.train(crew, stack)


def run_kept(work: Work, by: KeptBy) -> int:
    """Warm up, wait for a place among the ranks, train. Returns the exit code, which the agent has heard."""
    title = f"isthmus.train --run-dir {work.run_dir.path} --site {work.site} --process {by.process}"
    setproctitle(title)
    with ExitStack() as stack:
        leave = stack.enter_context(Leave())
        chip, job = work.chip(0), work.job(0)
        injectors = Injectors(work.run_dir.site(work.site) / CHECKPOINTS, write_down)
        kept = Kept(by, chip.backend, chip.device(0), leave, injectors)
        stack.callback(kept.close)
        learner = build_learner(job, kept.group, kept.page)
        learner.injectors = injectors
        num_ranks = work.plan.site(work.site).num_ranks
        kept.warm(learner, work.dataset, -(-work.plan.batch_size // num_ranks))
        if not kept.take_place():
            return 0
        rank = kept.group.rank
        write_to(work.run_dir.rank_log(work.site, rank))
        setproctitle(f"{title} --rank {rank}")
        source = f"rank/{work.site}/{rank}"
        journal = stack.enter_context(Journal(work.run_dir.path, source, clock=injectors.clock))
        try:
            work.train(Crew(job, work.dataset, kept.group, learner, journal, leave), stack, kept)
        except Exception as error:
            return kept.failed(error)
        kept.leaving(leave.reason or "done")
    return 0


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
