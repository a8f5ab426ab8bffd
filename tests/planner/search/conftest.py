import pytest
from msgspec.structs import replace

from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, SiteSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import DataSpec, GoalSpec, RunSpec, TrainSpec
from isthmus.units import Bandwidth, Count, Seconds

MODEL = ModelSpec(
    vocab_size=32_000,
    hidden_size=2048,
    num_layers=12,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    ffn_size=8192,
    max_seq_len=4096,
)


def site(price=0.0, bandwidth=10e9, delay=0.02, **nodes):
    """`nodes`: chip -> how many machines of 8."""
    return SiteSpec(
        nodes=[NodeSpec(count=count, chips={chip: 8}, price=price) for chip, count in nodes.items()],
        link=LinkSpec(bandwidth=Bandwidth(bandwidth), delay=Seconds(delay)),
    )


@pytest.fixture
def make_fleet():
    return lambda **sites: FleetSpec(sites=sites)


@pytest.fixture
def make_run():
    def run(model=MODEL, batch=64, tokens=10**10, seq_len=4096, **goal):
        return RunSpec(
            model=replace(model, max_seq_len=max(seq_len, model.max_seq_len)),
            data=DataSpec(seq_len=seq_len),
            train=TrainSpec(tokens=Count(tokens), batch_size=batch),
            goal=GoalSpec(**goal),
        )

    return run
