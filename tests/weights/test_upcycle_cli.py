"""The verb, from a model folder and from a run's folder."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tokenizers
import torch

from isthmus.data.tokenizer import TextTokenizer
from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer
from isthmus.spec.model import ModelSpec
from isthmus.train.export import load_final, save_final
from isthmus.train.generate import load_model
from isthmus.ui import cli

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
    assert told["path"] == str(tmp_path / "moe")
    before, after = load_final(run_dir / "final"), load_final(tmp_path / "moe")
    assert after.model == msgspec.convert(told["model"], ModelSpec)
    assert (after.model.num_experts, after.tokens, after.version) == (4, 99, 4)
    assert told["params"] == sum(array.size for array in after.parameters.values())
    assert after.tokenizer.hash == before.tokenizer.hash
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        one, other = (load_model(weights)(tokens).logits.numpy() for weights in (before, after))
    np.testing.assert_allclose(other, one, atol=1e-5)


def test_it_says_what_it_made(run_dir, tmp_path, capsys):
    assert cli.main(["upcycle", str(run_dir), str(tmp_path / "moe"), "--moe-every=2", "--granularity=2"]) == 0
    assert "1 of 2 layers are MoE, with 32 experts of width 6, 4 for each token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "run/final"], 2, "a model here already"),
        (["run", "moe", "--granularity=5"], 2, "--granularity: 5 does not divide the width 12"),
        (["nowhere", "moe"], 3, "no run here"),
    ],
)
def test_what_it_refuses(run_dir, tmp_path, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["upcycle", *words]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "moe").exists()


def test_a_mixture_of_experts_stays_what_it_is(run_dir, tmp_path, capsys):
    assert cli.main(["upcycle", str(run_dir), str(tmp_path / "moe")]) == 0
    assert cli.main(["upcycle", str(tmp_path / "moe"), str(tmp_path / "more")]) == 2
    assert "16 experts already" in capsys.readouterr().err
