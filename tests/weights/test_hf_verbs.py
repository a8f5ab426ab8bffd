"""`isthmus import`, `export` and `generate`, tokenizers along with the weights, and runs that start there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hf_models import edit_config, logits_of, make
from msgspec.structs import replace
from transformers import AutoModelForCausalLM, AutoTokenizer

from isthmus.data.tokenizer import EOS, load_tokenizer, train_tokenizer
from isthmus.errors import InputError, NotFoundError
from isthmus.models.transformer import Transformer
from isthmus.spec.load import load_run
from isthmus.train.export import check_start, save_final
from isthmus.train.loop import load_weights
from isthmus.ui import cli
from isthmus.weights.folder import open_model
from isthmus.weights.source import Floats

TEXT = "the river runs to the sea, and the sea to the strait " * 20


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    """A model with 512 tokens and a tokenizer of its own."""
    folder = tmp_path / "hf"
    make("llama", vocab_size=512, bos_token_id=None).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(train_tokenizer([TEXT], 400))
    eos = load_tokenizer(folder).eos_id
    edit_config(folder, eos_token_id=[eos, 7])
    return folder


def test_import_prints_the_run_that_goes_on_from_it(hf: Path, tmp_path: Path, capsys):
    assert cli.main(["import", str(hf), str(tmp_path / "ours")]) == 0
    said = capsys.readouterr()
    (tmp_path / "run.yaml").write_text(said.out)
    run = load_run(tmp_path / "run.yaml", [])
    assert "family llama" in said.err
    card = open_model(tmp_path / "ours").card
    assert run.model == card.model
    assert card.eos_id == load_tokenizer(Path(run.data.tokenizer)).eos_id
    check_start(Path(run.train.init_from), run.model, run.data.tokenizer)
    assert cli.main(["import", str(hf), str(tmp_path / "more"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["family"] == "llama"
    assert facts["run"]["train"]["init_from"] == str(tmp_path / "more")
    assert yaml.safe_load(said.out)["model"] == facts["run"]["model"]


def test_the_whole_way_through_a_terminal(hf: Path, tmp_path: Path, capsys):
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert cli.main(["import", str(hf), str(ours)]) == 0
    assert cli.main(["export", str(ours), str(back), "--dtype", "bf16", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (facts["family"], facts["files"]) == ("llama", ["model.safetensors"])
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(back), AutoTokenizer.from_pretrained(back)
    assert theirs.dtype == torch.bfloat16
    assert theirs.config.eos_token_id[1] == 7
    assert tokenizer.eos_token == EOS
    assert tokenizer("the river")["input_ids"] == load_tokenizer(ours).encode("the river")
    assert tokenizer.decode(tokenizer("the sea")["input_ids"]) == "the sea"


def test_generate_takes_a_model_folder(hf: Path, tmp_path: Path, capfd):
    assert cli.main(["import", str(hf), str(tmp_path / "ours")]) == 0
    capfd.readouterr()
    assert cli.main(["generate", str(tmp_path / "ours"), "the river", "--max-tokens", "4"]) == 0
    assert capfd.readouterr().out.startswith("the river")


def test_weights_without_tokenizer_json_are_taken_alone(hf: Path, tmp_path: Path, capsys):
    (hf / "tokenizer.json").rename(hf / "tokenizer.model")
    assert cli.main(["import", str(hf), str(tmp_path / "ours"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["eos_id"] is None
    assert "tokenizer" not in json.loads(said.out)["run"]["data"]
    assert "no tokenizer.json" in said.err
    assert (tmp_path / "ours" / "tokenizer.model").exists()
    assert cli.main(["export", str(tmp_path / "ours"), str(tmp_path / "back")]) == 0
    assert (tmp_path / "back" / "tokenizer.model").exists()


def test_the_end_of_text_is_taken_from_config_json(hf: Path, tmp_path: Path):
    raw = (hf / "tokenizer.json").read_text().replace(EOS, "<|stop|>")
    (hf / "tokenizer.json").write_text(raw)
    assert cli.main(["import", str(hf), str(tmp_path / "ours")]) == 0
    assert load_tokenizer(tmp_path / "ours").eos == "<|stop|>"


def test_errors_are_one_json_object(hf: Path, tmp_path: Path, capsys):
    edit_config(hf, mlp_bias=True)
    assert cli.main(["import", str(hf), str(tmp_path / "ours"), "--json"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert "mlp_bias" in error["message"]
    assert error["where"].endswith("config.json")
    assert cli.main(["export", str(tmp_path / "ours"), str(tmp_path / "out")]) == 3


def test_the_verbs_do_not_need_torch():
    code = "import sys, isthmus.ui.cli.import_, isthmus.ui.cli.export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_starts_from_the_weights(tmp_path: Path, tokens):
    theirs = make("qwen3")
    theirs.save_pretrained(tmp_path / "hf")
    assert cli.main(["import", str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    model = Transformer(open_model(tmp_path / "ours").card.model)
    load_weights(model, tmp_path / "ours")
    torch.testing.assert_close(model(tokens).logits, logits_of(theirs, tokens), rtol=0, atol=1e-4)
    with pytest.raises(InputError, match="qk_norm is none, not head"):
        load_weights(Transformer(replace(model.spec, qk_norm="none")), tmp_path / "ours")
    with pytest.raises(NotFoundError, match=r"train\.init_from"):
        load_weights(model, tmp_path / "hf")


def test_a_run_that_cannot_start_from_the_weights_is_refused_at_once(hf: Path, tmp_path: Path, capsys):
    assert cli.main(["import", str(hf), str(tmp_path / "ours")]) == 0
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
    command = ["train", str(tmp_path / "run.yaml"), "--run-dir", str(tmp_path / "run"), "--set"]
    for setting, said in (
        ("model.qkv_bias=true", "qkv_bias is True, not False"),
        ("data.tokenizer=train", "data.tokenizer: the weights come with a tokenizer"),
    ):
        assert cli.main([*command, setting]) == 2
        assert said in capsys.readouterr().err
    assert cli.main([*command, f"train.init_from={hf}"]) == 3
    assert not (tmp_path / "run").exists()


def test_a_run_s_weights_are_exported_with_its_tokenizer(hf: Path, tmp_path: Path):
    assert cli.main(["import", str(hf), str(tmp_path / "ours")]) == 0
    run, opened = tmp_path / "run", open_model(tmp_path / "ours")
    run.mkdir()
    (run / "run.yaml").touch()
    assert cli.main(["export", str(run), str(tmp_path / "back")]) == 3
    arrays, tokenizer = dict(Floats(opened.source)), load_tokenizer(tmp_path / "ours")
    save_final(run / "final", arrays, opened.card.model, tokenizer, tokens=9, version=1)
    assert cli.main(["export", str(run), str(tmp_path / "back")]) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "back").config.model_type == "llama"
    assert AutoTokenizer.from_pretrained(tmp_path / "back").eos_token == EOS
