"""A micro model on a small text, small enough that a whole run takes a fraction of a second."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from isthmus.comm.collective import Collective, SoloCollective
from isthmus.data.dataset import Dataset, prepare
from isthmus.journal import events
from isthmus.journal.reader import read
from isthmus.journal.writer import Journal
from isthmus.planner.make import make_plan
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import DataSpec, RunSpec, SourceSpec, TrainSpec
from isthmus.train.feed import Feed, LocalFeed, Start
from isthmus.train.job import Crew, Job, Outcome
from isthmus.train.learner import Learner
from isthmus.train.loop import Keeping, build_learner, train
from isthmus.train.signals import Leave
from isthmus.units import Count, Seconds

torch.set_num_threads(1)

DENSE = ModelSpec(
    vocab_size=320, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, ffn_size=48,
    max_seq_len=64,
)  # fmt: skip
MOE = msgspec.structs.replace(DENSE, num_experts=4, top_k=2, first_moe_layer=1)
SEQ_LEN = 32


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = re.findall(r"\w+", "the river carries ships from sea to sea and a narrow land joins two shores")
    draws = random.Random(1)
    documents = [" ".join(draws.choices(words, k=60)) for _ in range(60)]
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_bytes(b"\n".join(msgspec.json.encode({"text": text}) for text in documents))
    return path


@pytest.fixture(scope="session")
def spec(text_file: Path) -> RunSpec:
    return RunSpec(
        model=MOE,
        data=DataSpec(
            sources=[SourceSpec(path=str(text_file))],
            seq_len=SEQ_LEN,
            held_out=0.1,
            cache=str(text_file.parent / "cache"),
        ),
        train=TrainSpec(
            tokens=Count(12 * 8 * SEQ_LEN),
            batch_size=8,
            micro_batch_size=2,
            lr=5e-3,
            precision="fp32",
            eval_every=Seconds(0),
            eval_sequences=6,
            checkpoint_every=Seconds(0),
        ),
    )


@pytest.fixture(scope="session")
def dataset(spec: RunSpec) -> Dataset:
    return prepare(spec.data, spec.model.vocab_size)


class Runner:
    """Trains in this process (or, with a group, in one rank) and reads back what the journal says."""

    def __init__(self, spec: RunSpec, dataset: Dataset, folder: Path):
        self.spec, self.dataset, self.folder = spec, dataset, folder
        self.learner: Learner | None = None
        self.leave = Leave()
        self.notice = ""
        self.open_feed: Callable[[Learner], Feed] | None = None
        self.keeping: Keeping | None = None
        self.alone = True

    def job(self, num_ranks: int = 1) -> Job:
        fleet = FleetSpec(sites={"here": SiteSpec(nodes=[NodeSpec(chips={"cpu": num_ranks})])})
        return Job(self.spec, make_plan(fleet, self.spec), "here", self.folder, alone=self.alone)

    def train(self, group: Collective | None = None) -> Outcome:
        group = group or SoloCollective()
        job = self.job(group.world_size)
        self.leave = Leave()
        if self.notice:
            self.leave.ask(self.notice)

        def open_feed(learner: Learner, start: Start) -> Feed:
            return self.open_feed(learner) if self.open_feed else LocalFeed(job.plan.total_samples)

        journal = Journal(self.folder, f"rank/here/{group.rank}")
        self.learner = build_learner(job, group)
        with journal:
            return train(
                Crew(job, self.dataset, group, self.learner, journal, self.leave), open_feed, self.keeping
            )

    def with_spec(self, **changes: object) -> "Runner":
        self.spec = msgspec.structs.replace(
            self.spec, train=msgspec.structs.replace(self.spec.train, **changes)
        )
        return self

    def in_folder(self, folder: Path) -> "Runner":
        self.folder = folder
        return self

    def events(self, kind: type) -> list:
        return [event for event in read(self.folder) if isinstance(event, kind)]

    def losses(self) -> list[float]:
        return [event.loss for event in self.events(events.StepDone)]

    def parameters(self) -> dict[str, torch.Tensor]:
        assert self.learner is not None
        return {name: tensor.detach().clone() for name, tensor in self.learner.model.named_parameters()}


@pytest.fixture
def runner(spec: RunSpec, dataset: Dataset, tmp_path: Path) -> Runner:
    return Runner(spec, dataset, tmp_path)
