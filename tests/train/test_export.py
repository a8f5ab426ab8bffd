import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from isthmus.data.dataset import Dataset
from isthmus.errors import CorruptError, NotFoundError
from isthmus.journal.store import DiskStore
from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer
from isthmus.rundir import RunDir
from isthmus.spec.run import RunSpec
from isthmus.train.checkpoint import Facts, write_checkpoint
from isthmus.train.export import load_final, load_newest_weights, save_final, save_tokenizer
from isthmus.train.generate import load_model, main, text_pieces
from isthmus.ui import cli

OPTIONS = ["--max-tokens=12", "--temperature=0.8", "--top-p=0.9", "--seed=3"]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    (tmp_path / "run.yaml").touch()
    return RunDir(tmp_path)


@pytest.fixture
def arrays(spec: RunSpec) -> dict[str, np.ndarray]:
    model = Transformer(spec.model)
    init_weights(model, 1)
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


@pytest.fixture
def finished(run_dir: RunDir, arrays, spec: RunSpec, dataset: Dataset) -> RunDir:
    save_final(run_dir.final, arrays, spec.model, dataset.tokenizer, tokens=99, version=4)
    return run_dir


def test_what_is_saved_comes_back_and_opens_elsewhere(finished, arrays, spec, dataset):
    weights = load_final(finished.final)
    assert (weights.model, weights.tokens, weights.version) == (spec.model, 99, 4)
    assert weights.tokenizer.hash == dataset.tokenizer.hash
    elsewhere = safetensors.numpy.load_file(finished.final / "model.safetensors")
    for name, parameter in load_model(weights).named_parameters():
        np.testing.assert_array_equal(parameter.detach().numpy(), arrays[name])
        np.testing.assert_array_equal(elsewhere[name], arrays[name])


def test_damaged_weights_are_named(finished):
    path = finished.final / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        load_final(finished.final)


def test_a_run_without_weights_says_so(run_dir, capsys):
    with pytest.raises(NotFoundError, match="no weights yet"):
        load_newest_weights(run_dir)
    assert main([f"--run={run_dir.path}", "--prompt=x", "--json", *OPTIONS]) == 3
    assert json.loads(capsys.readouterr().err)["error"]["type"] == "NotFoundError"


def test_before_the_end_the_checkpoint_that_came_furthest_is_taken(run_dir, arrays, spec, dataset):
    for site, progress in (("a", 0.4), ("b", 0.6), ("c", 0.5)):
        facts = Facts(
            step=5, tokens=round(progress * 100), progress=progress, version=2, model=spec.model, data=""
        )
        write_checkpoint(DiskStore(), run_dir.site(site) / "checkpoints", facts, arrays, {})
        save_tokenizer(run_dir.site(site), dataset.tokenizer)
    newest = load_newest_weights(run_dir)
    assert newest.tokens == 60
    assert newest.path.is_relative_to(run_dir.site("b"))
    assert set(newest.parameters) == set(arrays)


def test_text_is_streamed_in_whole_characters(dataset):
    text = "land—ship ☃ sea"
    ids = dataset.encode(text)

    def tokens() -> Iterator[int]:
        yield from ids

    pieces = list(text_pieces(tokens(), dataset.tokenizer))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)
    assert len(pieces) < len(ids)


def test_the_same_seed_gives_the_same_text(finished, capsys):
    texts = []
    for seed in (3, 3, 4):
        assert main([f"--run={finished.path}", "--prompt=the river", *OPTIONS[:3], f"--seed={seed}"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("the river")


def test_json_is_one_object(finished, capsys):
    assert main([f"--run={finished.path}", "--prompt=", "--json", *OPTIONS]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["prompt"] == ""
    assert 0 < document["num_tokens"] <= 12
    assert document["trained_tokens"] == 99
    assert document["version"] == 4


def test_the_verb_starts_a_child_and_hands_on_its_exit_code(finished, capfd):
    command = ["generate", str(finished.path), "--", "--the river"]
    assert cli.main([*command[:2], "the river", "--max-tokens", "5"]) == 0
    assert capfd.readouterr().out.startswith("the river")
    (finished.final / "model.safetensors").write_bytes(b"")
    assert cli.main(command) == 1
    assert "checksum" in capfd.readouterr().err


@pytest.mark.parametrize("option", [["--max-tokens", "0"], ["--temperature", "-1"], ["--top-p", "0"]])
def test_the_verb_refuses_what_cannot_be(finished, capsys, option):
    assert cli.main(["generate", str(finished.path), "the river", *option]) == 2
    assert option[0] in capsys.readouterr().err


def test_the_verb_needs_weights(run_dir, capsys):
    assert cli.main(["generate", str(run_dir.path), "the river"]) == 3
    assert "checkpoint" in capsys.readouterr().err


def test_generation_leaves_gradients_on(finished):
    load_model(load_final(finished.final))
    assert torch.is_grad_enabled()
