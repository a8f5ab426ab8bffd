"""The verb, from a model folder and from a run's folder."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tokenizers
import torch
import yaml

from isthmus.data.tokenizer import TextTokenizer
from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer
from isthmus.spec.model import ModelSpec
from isthmus.train.export import load_final, save_final
from isthmus.train.generate import load_model
from isthmus.ui import cli
from isthmus.weights.folder import open_model
from isthmus.weights.formats import convert
from isthmus.weights.shards import write_shards
from isthmus.weights.source import FileSource, Floats
from isthmus.weights.upcycle import Recipe
from isthmus.weights.upcycle_model import upcycle_model

SPEC = ModelSpec(
    vocab_size=8, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, ffn_size=12
)  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that has finished with a dense model."""
    words = {word: number for number, word in enumerate(["<|endoftext|>", "<unk>", "sea", "land"])}
    vocabulary = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    model = Transformer(SPEC)
    init_weights(model, 1)
    parameters = {name: param.detach().numpy() for name, param in model.named_parameters()}
    folder = tmp_path / "run"
    tokenizer = TextTokenizer(vocabulary.to_str().encode(), "words")
    save_final(folder / "final", parameters, SPEC, tokenizer, tokens=99, version=4)
    (folder / "run.yaml").touch()
    return folder


@pytest.mark.parametrize("dense", ["run", "run/final"])
def test_the_new_model_computes_the_same(run_dir, tmp_path, capsys, dense):
    words = ["upcycle", str(tmp_path / dense), str(tmp_path / "moe"), "--experts=4", "--seed=2", "--json"]
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    before, after = load_final(run_dir / "final"), load_final(tmp_path / "moe")
    assert after.model == msgspec.convert(told["run"]["model"], ModelSpec)
    assert told["run"]["train"]["init_from"] == told["folder"] == str(tmp_path / "moe")
    assert (after.model.num_experts, after.tokens, after.version) == (4, 99, 4)
    assert told["num_params"] == sum(array.size for array in after.parameters.values())
    assert after.tokenizer.hash == before.tokenizer.hash
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        one, other = (load_model(weights)(tokens).logits.numpy() for weights in (before, after))
    np.testing.assert_allclose(other, one, atol=1e-5)


def test_it_says_what_it_made_and_prints_the_run_that_goes_on(run_dir, tmp_path, capsys):
    assert cli.main(["upcycle", str(run_dir), str(tmp_path / "moe"), "--moe-every=2", "--granularity=2"]) == 0
    captured = capsys.readouterr()
    assert "1 of 2 layers have 32 experts of width 6, 4 for each token" in captured.err
    assert yaml.safe_load(captured.out)["model"]["num_experts"] == 32


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "run/final"], 2, "is there already"),
        (["run", "moe", "--granularity=5"], 2, "--granularity: 5 does not divide the width 12"),
        (["nowhere", "moe"], 3, "no run here"),
    ],
)
def test_what_it_refuses(run_dir, tmp_path, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["upcycle", *words]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "moe").exists()


def test_number_formats_stay_as_they_were(run_dir, tmp_path):
    opened = open_model(run_dir / "final")
    half = {name: replace(info, dtype="BF16") for name, info in opened.source.infos.items()}
    shards = write_shards(tmp_path, half, lambda name: [convert(Floats(opened.source)[name], "F32", "BF16")])
    source = FileSource([tmp_path / shard.name for shard in shards])
    upcycle_model(
        replace(opened, source=source), tmp_path / "moe", Recipe(copies=4, noise=0.1), shard_bytes=2000
    )
    made = open_model(tmp_path / "moe")
    assert {info.dtype for info in made.source.infos.values()} == {"BF16"}
    assert len(made.card.shards) > 1
    assert np.array_equal(Floats(made.source)["embed.weight"], Floats(source)["embed.weight"])


def test_a_mixture_of_experts_stays_what_it_is(run_dir, tmp_path, capsys):
    assert cli.main(["upcycle", str(run_dir), str(tmp_path / "moe")]) == 0
    assert cli.main(["upcycle", str(tmp_path / "moe"), str(tmp_path / "more")]) == 2
    assert "16 experts already" in capsys.readouterr().err
