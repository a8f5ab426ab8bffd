"""What transformers computes with a model, ours computes after `import`, and transformers after `export`."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hf_models import VARIANTS, edit_config, load_ours, logits_of, make
from transformers import AutoModelForCausalLM

from isthmus.weights.folder import open_model
from isthmus.weights.hf.read import import_model
from isthmus.weights.hf.write import export_model


def same_tensors(first: Path, second: Path) -> None:
    ones, others = (
        {name: tensor for file in folder.glob("*.safetensors")
         for name, tensor in safetensors.torch.load_file(file).items()}
        for folder in (first, second)
    )  # fmt: skip
    assert ones.keys() == others.keys()
    for name, tensor in ones.items():
        assert tensor.dtype == others[name].dtype
        assert torch.equal(tensor, others[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_ways_and_the_same_logits(variant: str, tmp_path: Path, tokens):
    theirs = make(variant)
    wanted = logits_of(theirs, tokens)
    theirs.save_pretrained(tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "ours")
    torch.testing.assert_close(load_ours(tmp_path / "ours")(tokens).logits, wanted, rtol=0, atol=1e-4)
    export_model(open_model(tmp_path / "ours"), tmp_path / "back")
    same_tensors(tmp_path / "hf", tmp_path / "back")
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert type(loaded) is type(theirs)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(logits_of(loaded, tokens), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", ["qwen2", "qwen3", "llama-llama3"])
def test_gradients_are_those_of_transformers(variant: str, tmp_path: Path, tokens):
    theirs = make(variant)
    theirs.save_pretrained(tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "ours")
    ours = load_ours(tmp_path / "ours")
    for logits in (theirs(tokens).logits, ours(tokens).logits):
        logits.square().mean().backward()
    for name, part in (("q_proj", "wq"), ("k_proj", "wk"), ("q_norm", "q_norm"), ("k_norm", "k_norm")):
        for kind in ("weight", "bias"):
            wanted = dict(theirs.named_parameters()).get(f"model.layers.1.self_attn.{name}.{kind}")
            if wanted is None:
                continue
            got = ours.get_parameter(f"layers.1.attn.{part}.{kind}").grad
            torch.testing.assert_close(got, wanted.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["mixtral", "qwen3-moe", "olmoe"])
def test_experts_in_one_tensor_are_read_too(variant: str, tmp_path: Path):
    model = make(variant)
    model.save_pretrained(tmp_path / "each")
    model.save_pretrained(tmp_path / "fused", save_original_format=False)
    names = safetensors.torch.load_file(tmp_path / "fused" / "model.safetensors")
    assert any(name.endswith("experts.gate_up_proj") for name in names)
    for kind in ("each", "fused"):
        import_model(tmp_path / kind, tmp_path / f"ours-{kind}")
    same_tensors(tmp_path / "ours-each", tmp_path / "ours-fused")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shards_and_halves_keep_their_bits(dtype: torch.dtype, tmp_path: Path):
    make("mixtral", dtype).save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 2
    import_model(tmp_path / "hf", tmp_path / "ours", shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    export_model(open_model(tmp_path / "ours"), tmp_path / "back", shard_bytes=30_000)
    same_tensors(tmp_path / "hf", tmp_path / "back")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "back").dtype == dtype


def test_a_number_format_can_be_asked_for(tmp_path: Path, tokens):
    theirs = make("llama")
    theirs.save_pretrained(tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "ours")
    export_model(open_model(tmp_path / "ours"), tmp_path / "bf16", dtype="bf16")
    make("llama", torch.bfloat16).save_pretrained(tmp_path / "wanted")
    same_tensors(tmp_path / "bf16", tmp_path / "wanted")
    import_model(tmp_path / "bf16", tmp_path / "ours-bf16")
    export_model(open_model(tmp_path / "ours-bf16"), tmp_path / "fp32", dtype="fp32")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "fp32")
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(logits_of(loaded, tokens), logits_of(theirs, tokens), rtol=0, atol=0.3)


def test_a_tied_head_may_be_there_too(tmp_path: Path):
    make("llama-tied").save_pretrained(tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    for name, change, tied in (("same", 0.0, True), ("other", 1.0, False)):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + change
        safetensors.torch.save_file(tensors, file, {"format": "pt"})
        done = import_model(tmp_path / "hf", tmp_path / name)
        assert done.card.model.tied_head is tied
        assert len(done.notes) == 2 - tied  # one of them: there is no tokenizer


def test_the_older_rope_fields_are_read(tmp_path: Path):
    make("llama-llama3").save_pretrained(tmp_path / "hf")
    new = import_model(tmp_path / "hf", tmp_path / "new").card.model
    rope = json.loads((tmp_path / "hf" / "config.json").read_text())["rope_parameters"]
    theta = rope.pop("rope_theta")
    edit_config(tmp_path / "hf", rope_parameters=None, rope_theta=theta, rope_scaling=rope)
    old = import_model(tmp_path / "hf", tmp_path / "old").card.model
    assert old == new
    assert old.rope_scaling.kind == "llama3"


SKYWORK = {
    "architectures": ["SkyworkForCausalLM"], "model_type": "skywork", "vocab_size": 96, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": 64, "hidden_act": "silu", "rms_norm_eps": 1e-6, "num_experts": [4],
    "num_experts_per_tok": 2, "moe_use_logits_norm": True, "moe_gate_norm_std": 1.0, "moe_2layer_gate": False,
    "moe_use_mixtral_gating": True, "moe_feature_no_mul_topk": True, "tie_word_embeddings": False,
    "rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "bfloat16", "bos_token_id": 1,
    "eos_token_id": 2, "moe_expert_interval": 1, "auto_map": {"AutoConfig": "configuration_skywork.X"},
}  # fmt: skip


def test_skywork_moe_shapes_make_a_round_trip(tmp_path: Path):
    shapes = {"model.embed_tokens.weight": (96, 32), "model.norm.weight": (32,), "lm_head.weight": (96, 32)}
    for layer in range(2):
        place = f"model.layers.{layer}"
        shapes |= {f"{place}.self_attn.{each}_proj.weight": (32, 32) for each in "qkvo"}
        shapes |= {f"{place}.{each}_layernorm.weight": (32,) for each in ("input", "post_attention")}
        shapes[f"{place}.block_sparse_moe.gate.weight"] = (4, 32)
        for expert in range(4):
            for name, shape in (("w1", (48, 32)), ("w2", (32, 48)), ("w3", (48, 32))):
                shapes[f"{place}.block_sparse_moe.experts.{expert}.{name}.weight"] = shape
    draws = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(shape, generator=draws).bfloat16() for name, shape in shapes.items()}
    (tmp_path / "hf").mkdir()
    safetensors.torch.save_file(tensors, tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(SKYWORK))
    spec = import_model(tmp_path / "hf", tmp_path / "ours").card.model
    assert (spec.num_experts, spec.top_k, spec.gate_norm, spec.moe_layers) == (4, 2, 1.0, [0, 1])
    assert export_model(open_model(tmp_path / "ours"), tmp_path / "back").family == "skywork-moe"
    same_tensors(tmp_path / "hf", tmp_path / "back")
    assert import_model(tmp_path / "back", tmp_path / "again").card.model == spec
