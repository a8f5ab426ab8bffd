"""Small random models of each family, made by transformers' own classes."""

import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

from isthmus.models.transformer import Transformer
from isthmus.weights.folder import open_model
from isthmus.weights.source import Floats

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16, "rope_theta": 500.0,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000.0,
    "beta_fast": 4.0,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}

VARIANTS: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", {"rms_norm_eps": 1e-5}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "head_dim": 16}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}}),
    "llama-llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "qwen2": ("Qwen2", {}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3-yarn": ("Qwen3", {"head_dim": 8, "rope_parameters": {**YARN, "attention_factor": 1.5}}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "qwen3-moe": ("Qwen3Moe", {**EXPERTS, "head_dim": 16, "mlp_only_layers": [1]}),
    "qwen3-moe-sparse": ("Qwen3Moe", {**EXPERTS, "decoder_sparse_step": 2}),
    "olmoe": ("Olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}),
    "olmoe-raw": ("Olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
}


def make(variant: str, dtype: torch.dtype = torch.float32, **more):
    """Weights far from their start: norms, biases and routers all count."""
    kind, changes = VARIANTS[variant]
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes, **more})
    torch.manual_seed(sum(map(ord, variant)))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if "gate.weight" in name else 0.2
            parameter.add_(torch.randn_like(parameter) * scale)
    return model.to(dtype)


def logits_of(model, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits


def load_ours(folder: Path) -> Transformer:
    opened = open_model(folder)
    model, arrays = Transformer(opened.card.model), Floats(opened.source)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(arrays[name]))
    return model


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
