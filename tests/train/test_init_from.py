"""A run that starts from the weights of another: `train.init_from`."""

import pytest
import torch
from msgspec.structs import replace

from isthmus.comm.collective import SoloCollective
from isthmus.errors import InputError
from isthmus.train.__main__ import site_job
from isthmus.train.export import save_final
from isthmus.train.loop import build_learner


@pytest.fixture
def start(runner, dataset, spec, tmp_path):
    """The folder of a model that has learnt a little."""
    runner.train()
    arrays = {name: tensor.numpy() for name, tensor in runner.parameters().items()}
    save_final(tmp_path / "start", arrays, spec.model, dataset.tokenizer, tokens=1, version=0)
    return tmp_path / "start"


def test_the_first_weights_are_those_of_the_folder(runner, start):
    before = runner.parameters()
    learner = build_learner(runner.with_spec(init_from=str(start), seed=5).job(), SoloCollective())
    for name, parameter in learner.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_training_goes_on_from_there(runner, start, tmp_path):
    first = runner.losses()
    runner.with_spec(init_from=str(start)).in_folder(tmp_path / "more").train()
    assert runner.losses()[0] < first[0] - 0.1


def test_another_model_is_refused(runner, start, spec):
    runner.spec = replace(spec, model=replace(spec.model, num_kv_heads=2))
    with pytest.raises(InputError, match="num_kv_heads is 2, not 1"):
        build_learner(runner.with_spec(init_from=str(start)).job(), SoloCollective())


def test_sites_with_other_first_weights_are_told_apart(runner, start, dataset, spec, tmp_path):
    arrays = {name: tensor.numpy() + 1 for name, tensor in runner.parameters().items()}
    save_final(tmp_path / "other", arrays, spec.model, dataset.tokenizer, tokens=1, version=0)
    hashes = set()
    for folder in ("", str(start), str(tmp_path / "other")):
        job = runner.with_spec(init_from=folder).job()
        hashes.add(site_job(job, dataset, build_learner(job, SoloCollective())).model_hash)
    assert len(hashes) == 3
