"""The families of Hugging Face models that are understood, field by field of their config.json.

A field is mapped, or may only have values that change nothing, or is known to be harmless, or is refused.
Defaults are those of transformers, for fields that a config.json may leave out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isthmus.weights.hf.links import Naming


@dataclass(frozen=True)
class Family:
    name: str
    model_type: str
    architecture: str
    fields: Mapping[str, str]
    """config.json -> ModelSpec, the values being the same."""
    defaults: Mapping[str, Any]
    """Of fields that may be left out; a field of `fields` without one may not."""
    always: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the spec that are the same for every model of the family."""
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values that a field may have."""
    own: tuple[str, ...] = ()
    """Fields that are read in a way of the family's own."""
    harmless: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names that versions of transformers give a field."""
    naming: Naming = "qwen"

    @property
    def is_moe(self) -> bool:
        return "num_experts" in self.fields.values() or self.name == "skywork-moe"


FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "ffn_size",
    "max_position_embeddings": "max_seq_len",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied_head",
}
"""In every family. num_key_value_heads may be null (as many as heads), and head_dim (hidden_size / heads)."""

ROPE = ("rope_theta", "rope_scaling", "rope_parameters")

FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "clip_qkv": (None,),
    "sliding_window": (None,),
    "use_sliding_window": (False,),
    "use_mrope": (False,),
    "partial_rotary_factor": (None, 1.0),
    "quantization_config": (None,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": ({}, None),
}
"""In every family."""

HARMLESS = {
    "architectures": "the model_type says which family it is",
    "model_type": "it says which family it is",
    "torch_dtype": "the tensors say it themselves",
    "dtype": "the tensors say it themselves",
    "transformers_version": "who wrote the file",
    "_name_or_path": "where the file came from",
    "initializer_range": "for new weights",
    "attention_dropout": "for training with transformers; there is none here",
    "hidden_dropout": "for training with transformers; there is none here",
    "router_aux_loss_coef": "for training with transformers; here it is train.balance",
    "router_jitter_noise": "for training with transformers; there is none here",
    "output_router_logits": "what transformers hands out beside the logits",
    "output_attentions": "what transformers hands out beside the logits",
    "output_hidden_states": "what transformers hands out beside the logits",
    "return_dict": "what transformers hands out beside the logits",
    "use_cache": "how transformers generates",
    "max_length": "how transformers generates",
    "do_sample": "how transformers generates",
    "temperature": "how transformers generates",
    "top_p": "how transformers generates",
    "is_decoder": "all families decode",
    "pretraining_tp": "how transformers cut products that have the same value",
    "chunk_size_feed_forward": "how transformers cuts products that have the same value",
    "bos_token_id": "token numbers are the tokenizer's",
    "eos_token_id": "token numbers are the tokenizer's",
    "pad_token_id": "token numbers are the tokenizer's",
    "tokenizer_class": "the tokenizer's files say it",
    "max_window_layers": "without a sliding window it means nothing",
    "problem_type": "for classifiers",
    "id2label": "for classifiers",
    "label2id": "for classifiers",
}
"""Fields that do not change what the model computes, each with the reason."""

KEPT = (
    "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "attention_dropout",
    "router_aux_loss_coef", "router_jitter_noise",
)  # fmt: skip
"""Harmless fields that are written again on the way back."""

_DEFAULTS = {"tie_word_embeddings": False, "rope_theta": 10_000.0, "head_dim": None}
_QWEN = {**_DEFAULTS, "rms_norm_eps": 1e-6, "use_sliding_window": False}
_ANY_WINDOW = {"sliding_window": ()}
"""Qwen: without use_sliding_window it means nothing."""
_EXPERTS = {"num_experts": "num_experts", "num_experts_per_tok": "top_k", "norm_topk_prob": "renormalize"}

LLAMA = Family(
    "llama",
    "llama",
    "LlamaForCausalLM",
    FIELDS,
    {**_DEFAULTS, "rms_norm_eps": 1e-6, "num_key_value_heads": None},
)
QWEN2 = Family(
    "qwen2",
    "qwen2",
    "Qwen2ForCausalLM",
    FIELDS,
    _QWEN,
    always={"qkv_bias": True},
    fixed=_ANY_WINDOW,
)
QWEN3 = Family(
    "qwen3",
    "qwen3",
    "Qwen3ForCausalLM",
    FIELDS,
    {**_QWEN, "head_dim": 128},
    always={"qk_norm": "head"},
    fixed=_ANY_WINDOW,
)
MIXTRAL = Family(
    "mixtral",
    "mixtral",
    "MixtralForCausalLM",
    {**FIELDS, "num_local_experts": "num_experts", "num_experts_per_tok": "top_k"},
    {**_DEFAULTS, "rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0, "num_experts_per_tok": 2},
    naming="mixtral",
)
QWEN3_MOE = Family(
    "qwen3-moe",
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    {**FIELDS, **_EXPERTS, "moe_intermediate_size": "expert_ffn_size"},
    {**_QWEN, "num_experts_per_tok": 8, "norm_topk_prob": False},
    always={"qk_norm": "head"},
    fixed=_ANY_WINDOW,
    own=("decoder_sparse_step", "mlp_only_layers"),
    aliases={"num_local_experts": "num_experts"},
)
OLMOE = Family(
    "olmoe",
    "olmoe",
    "OlmoeForCausalLM",
    {**FIELDS, **_EXPERTS},
    {
        **_DEFAULTS,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": None,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
    },
    always={"qk_norm": "all"},
    aliases={"num_local_experts": "num_experts"},
)
SKYWORK_MOE = Family(
    "skywork-moe",
    "skywork",
    "SkyworkForCausalLM",
    {**FIELDS, "num_experts_per_tok": "top_k"},
    {**_DEFAULTS, "rms_norm_eps": 1e-6, "num_key_value_heads": None, "num_experts_per_tok": 2},
    fixed={"moe_expert_interval": (1,), "moe_2layer_gate": (False,)},
    own=(
        "num_experts",
        "num_local_experts",
        "moe_use_logits_norm",
        "moe_gate_norm_std",
        "moe_use_mixtral_gating",
        "moe_feature_no_mul_topk",
    ),
    harmless=("auto_map",),
    naming="mixtral",
)

FAMILIES = {family.name: family for family in (LLAMA, QWEN2, QWEN3, MIXTRAL, QWEN3_MOE, OLMOE, SKYWORK_MOE)}
