"""Whether two specs are of one model: fields that mean nothing for a model are left out."""

from typing import Any

import msgspec

from isthmus.spec.model import ModelSpec

_MOE_FIELDS = (
    "num_experts", "top_k", "shared_ffn_size", "router_score", "renormalize", "gate_norm", "route_scale",
    "router_bias",
)  # fmt: skip
_PATTERN_FIELDS = ("first_moe_layer", "moe_every", "dense_layers", "expert_ffn_size")
_ROPE_FIELDS = {
    "none": (),
    "linear": ("factor",),
    "llama3": ("factor", "original_max_seq_len", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_max_seq_len", "beta_fast", "beta_slow", "attention_factor"),
}


def difference(mine: ModelSpec, theirs: ModelSpec, ignore: tuple[str, ...] = ()) -> str | None:
    """The first field in which the models differ, with both values, or None."""
    first, second = _meaning(mine), _meaning(theirs)
    for name in {**first, **second}:
        ours, others = first.get(name, "none"), second.get(name, "none")
        if ours != others and name not in ignore:
            return f"{name} is {ours}, not {others}"
    return None


def _meaning(spec: ModelSpec) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(spec)
    scaling = fields.pop("rope_scaling")
    for name in _PATTERN_FIELDS:
        fields.pop(name)
    if spec.moe_layers:
        fields["moe_layers"] = spec.moe_layers
        fields["expert_ffn_size"] = spec.expert_width
        if len(spec.moe_layers) == spec.num_layers:
            fields.pop("ffn_size")
    else:
        for name in _MOE_FIELDS:
            fields.pop(name)
    fields["rope_scaling.kind"] = scaling["kind"]
    return fields | {f"rope_scaling.{name}": scaling[name] for name in _ROPE_FIELDS[scaling["kind"]]}
