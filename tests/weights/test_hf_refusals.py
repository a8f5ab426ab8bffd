"""What is not understood is refused by name; damaged files are told from foreign ones."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hf_models import edit_config, make

from isthmus.errors import CorruptError, InputError, NotFoundError
from isthmus.spec.model import ModelSpec
from isthmus.weights.folder import Card, Opened, open_model
from isthmus.weights.hf.read import import_model
from isthmus.weights.hf.write import export_model
from isthmus.weights.source import ArraySource


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    make("llama").save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"attention_bias": True}, "attention_bias is true"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"hidden_act": "gelu"}, 'hidden_act is "gelu"'),
        ({"sliding_window": 128}, "sliding_window is 128"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types holds sliding_attention"),
        ({"clip_qkv": 8.0}, "clip_qkv is 8.0"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "'longrope'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 3}}, "alpha: 3"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, "truncate: False"),
        ({"rope_scaling": {"type": "linear"}}, "no factor"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ({"logit_softcap": 30}, "logit_softcap is 30, a field that isthmus does not know"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({"model_type": "gemma"}, "model_type is 'gemma'"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        (
            {"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 4, "high_freq_factor": 4}},
            "high_freq_factor",
        ),
        ({"hidden_size": 24}, "'model.embed_tokens.weight' is [96, 32]; config.json makes it [96, 24]"),
        ({"num_hidden_layers": 2}, "not part of such a model"),
        ({"num_hidden_layers": 4}, "missing"),
    ],
)
def test_a_field_is_refused_by_name(changes: dict, named: str, llama: Path):
    edit_config(llama, **changes)
    with pytest.raises(InputError) as caught:
        import_model(llama, llama.parent / "ours")
    assert named in str(caught.value)
    assert caught.value.where
    assert caught.value.hint
    assert not (llama.parent / "ours").exists()


def test_a_field_that_shapes_need_may_not_be_left_out(llama: Path):
    config = json.loads((llama / "config.json").read_text())
    del config["intermediate_size"]
    (llama / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no intermediate_size"):
        import_model(llama, llama.parent / "ours")


def test_windows_that_are_off_are_harmless_to_qwen(tmp_path: Path):
    make("qwen2").save_pretrained(tmp_path / "hf")
    edit_config(tmp_path / "hf", sliding_window=16, max_window_layers=1)
    import_model(tmp_path / "hf", tmp_path / "ours")
    edit_config(tmp_path / "hf", use_sliding_window=True)
    with pytest.raises(InputError, match="use_sliding_window"):
        import_model(tmp_path / "hf", tmp_path / "other")


@pytest.mark.parametrize(
    "wrong",
    [
        {"moe_2layer_gate": True},
        {"moe_expert_interval": 2},
        {"num_experts": [4, 8]},
        {"moe_feature_no_mul_topk": False},
    ],
)
def test_another_kind_of_skywork_is_refused(wrong: dict, tmp_path: Path):
    fields = {"model_type": "skywork", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
              "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 8,
              "num_experts": [4]}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({**fields, **wrong}))
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=next(iter(wrong))):
        import_model(tmp_path, tmp_path / "ours")


def _change(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, {"format": "pt"})


def test_tensors_are_named(llama: Path):
    _change(
        llama, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    )
    import_model(llama, llama.parent / "with-buffers")
    _change(llama, lambda tensors: tensors.update({"model.extra.weight": torch.ones(1)}))
    with pytest.raises(InputError, match=r"'model\.extra\.weight' is not part"):
        import_model(llama, llama.parent / "ours")
    _change(llama, lambda tensors: [tensors.pop(n) for n in ("model.extra.weight", "lm_head.weight")])
    with pytest.raises(InputError, match=r"'lm_head\.weight' is missing(.|\n)*tie_word_embeddings"):
        import_model(llama, llama.parent / "ours")
    _change(llama, lambda tensors: tensors.update({"lm_head.weight": torch.ones(96, 32, dtype=torch.int8)}))
    with pytest.raises(InputError, match="stored as I8"):
        import_model(llama, llama.parent / "ours")


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "pointer"])
def test_damaged_weights_are_told(damage: str, llama: Path):
    file = llama / "model.safetensors"
    whole = file.read_bytes()
    bad = {
        "cut": whole[:-4],
        "header": whole[:20] + b"\0" + whole[21:],
        "empty": b"",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n",
    }
    file.write_bytes(bad[damage])
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        import_model(llama, llama.parent / "ours")


def test_missing_files_are_told(llama: Path, tmp_path: Path):
    make("llama").save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    next(iter((tmp_path / "parts").glob("*-of-*.safetensors"))).unlink()
    with pytest.raises(NotFoundError, match="-of-"):
        import_model(tmp_path / "parts", tmp_path / "ours")
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled"):
        import_model(llama, tmp_path / "ours")
    with pytest.raises(NotFoundError, match=r"config\.json"):
        import_model(tmp_path / "nowhere", tmp_path / "ours")


def test_what_is_there_is_not_overwritten(llama: Path, tmp_path: Path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="there already"):
        import_model(llama, tmp_path / "ours")
    shutil.rmtree(tmp_path / "ours")
    (tmp_path / "ours").mkdir()
    import_model(llama, tmp_path / "ours")


def test_a_family_that_cannot_hold_the_model_says_why(llama: Path, tmp_path: Path):
    import_model(llama, tmp_path / "ours")
    opened = open_model(tmp_path / "ours")
    for family, why in (("qwen2", "qkv_bias"), ("qwen3", "qk_norm"), ("mixtral", "num_experts")):
        with pytest.raises(InputError, match=why):
            export_model(opened, tmp_path / "out", family=family)
    with pytest.raises(InputError, match="no family is called 'gpt'"):
        export_model(opened, tmp_path / "out", family="gpt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes", [{"shared_ffn_size": 8}, {"router_score": "sigmoid"}, {"first_moe_layer": 1, "gate_norm": 1.0}]
)
def test_a_model_that_no_family_holds_is_told(changes: dict, tmp_path: Path):
    card = Card(model=ModelSpec(num_experts=4, **changes), tokens=0, version=0, eos_id=-1)
    with pytest.raises(InputError, match="no family"):
        export_model(Opened(card, ArraySource({}), tmp_path, tmp_path), tmp_path / "out")
