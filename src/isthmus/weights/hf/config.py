"""config.json -> ModelSpec and back. What is not understood is refused by name, never passed over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from isthmus.errors import CorruptError, InputError, NotFoundError
from isthmus.spec.model import ModelSpec
from isthmus.weights.alike import difference
from isthmus.weights.hf.families import FAMILIES, FIXED, HARMLESS, KEPT, ROPE, Family
from isthmus.weights.hf.rope import read_rope, write_rope

CONFIG = "config.json"


def read_json(path: Path) -> dict[str, Any]:
    """Raises NotFoundError, CorruptError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            "there is no such file", where=str(path), hint="give the folder of a Hugging Face model"
        ) from error
    except (OSError, msgspec.MsgspecError) as error:
        raise CorruptError(f"cannot be read: {error}", where=str(path), hint="take another copy") from error


def find_family(config: Mapping[str, Any], where: str) -> Family:
    """Raises InputError for a model of another kind."""
    kind = config.get("model_type")
    for family in FAMILIES.values():
        if family.model_type == kind:
            return family
    raise InputError(
        f"model_type is {kind!r}",
        where=where,
        hint=f"understood are {', '.join(family.model_type for family in FAMILIES.values())}",
    )


def read_spec(config: dict[str, Any], family: Family, where: str) -> ModelSpec:
    """Raises InputError naming the field, where config.json says what a ModelSpec cannot."""
    config = _by_one_name(config, family, where)
    _refuse_unknown(config, family, where)
    known = {**family.defaults, **config}
    for name in family.fields:
        if name not in known:
            raise InputError(f"there is no {name}", where=where, hint="take a complete config.json")
    values = {ours: known[name] for name, ours in family.fields.items()}
    if values["num_kv_heads"] is None:
        values["num_kv_heads"] = values["num_heads"]
    if values["head_dim"] is None:
        values["head_dim"] = _int(known, "hidden_size", where) // _int(known, "num_attention_heads", where)
    values["rope_theta"], values["rope_scaling"] = read_rope(config, family.defaults["rope_theta"], where)
    if family.name == "skywork-moe":
        values |= _read_skywork(config, where)
    if family.name == "qwen3-moe":
        step = _int({"decoder_sparse_step": 1, **config}, "decoder_sparse_step", where)
        values |= {"first_moe_layer": step - 1, "moe_every": step}
        values["dense_layers"] = config.get("mlp_only_layers") or []
    try:
        return msgspec.convert({**values, **family.always}, ModelSpec)
    except msgspec.ValidationError as error:
        text = str(error)
        for name, ours in family.fields.items():
            text = text.replace(f"`$.{ours}`", name)
        raise InputError(f"a value is impossible: {text}", where=where, hint="mend config.json") from error


def _by_one_name(config: dict[str, Any], family: Family, where: str) -> dict[str, Any]:
    for alias, name in family.aliases.items():
        if alias in config and config.get(name, config[alias]) != config[alias]:
            raise InputError(
                f"{name} is {config[name]} and {alias} is {config[alias]}",
                where=where,
                hint="mend config.json",
            )
    return {family.aliases.get(name, name): value for name, value in config.items()}


def _int(config: Mapping[str, Any], name: str, where: str) -> int:
    value = config[name]
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}", where=where, hint="mend config.json")
    return value


def _refuse_unknown(config: dict[str, Any], family: Family, where: str) -> None:
    fixed = {**FIXED, **family.fixed}
    handled = {*family.fields, *family.own, *family.harmless, *HARMLESS, *ROPE, "layer_types"}
    for name, value in config.items():
        allowed = fixed.get(name)
        if allowed is not None and (not allowed or value in allowed):
            continue
        if allowed is not None:
            wanted = " or ".join(msgspec.json.encode(each).decode() for each in allowed)
            raise InputError(
                f"{name} is {_shown(value)}; isthmus computes as for {wanted}",
                where=where,
                hint=f"choose a model of the family {family.name} without it",
            )
        if name not in handled:
            raise InputError(
                f"{name} is {_shown(value)}, a field that isthmus does not know in the family {family.name}",
                where=where,
                hint="if the model computes the same without it, delete it from config.json",
            )
    other = [kind for kind in config.get("layer_types") or [] if kind != "full_attention"]
    if other:
        raise InputError(
            f"layer_types holds {other[0]}", where=where, hint="only full_attention is understood"
        )


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_skywork(config: dict[str, Any], where: str) -> dict[str, Any]:
    """As in Skywork's own vLLM: softmax over lambda z / std(z), the two best renormalised."""
    counts = [config[name] for name in ("num_experts", "num_local_experts") if name in config]
    sizes = {size for count in counts for size in (count if isinstance(count, list) else [count])}
    if len(sizes) != 1:
        raise InputError(
            f"num_experts is {_shown(counts)}", where=where, hint="all layers must have as many experts"
        )
    gating = [config.get(name) for name in ("moe_use_mixtral_gating", "moe_feature_no_mul_topk")]
    if False in gating and True not in gating:
        raise InputError(
            "moe_use_mixtral_gating and moe_feature_no_mul_topk are false: the experts' input is doubled",
            where=where,
            hint="only models with one of them true are understood",
        )
    norm = config.get("moe_gate_norm_std", 1.0) if config.get("moe_use_logits_norm") else 0.0
    return {"num_experts": sizes.pop(), "gate_norm": norm}


def write_config(spec: ModelSpec, family: Family, dtype: str, kept: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of `spec`. Raises InputError naming the field that the family cannot have.

    Args:
        dtype: as transformers calls it.
        kept: harmless fields of the config.json that the model came from.
    """
    if family.is_moe != bool(spec.moe_layers):
        raise _cannot_hold(family, f"num_experts is {spec.num_experts}")
    config: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.model_type}
    config |= {name: getattr(spec, ours) for name, ours in family.fields.items()}
    config["hidden_act"] = "silu"
    config |= write_rope(spec.rope_theta, spec.rope_scaling)
    if family.name == "qwen3-moe":
        regular = spec.first_moe_layer == spec.moe_every - 1
        dense = [layer for layer in range(spec.num_layers) if not spec.is_moe_layer(layer)]
        config["decoder_sparse_step"] = spec.moe_every if regular else 1
        config["mlp_only_layers"] = spec.dense_layers if regular else dense
        config["moe_intermediate_size"] = spec.expert_width
    elif family.is_moe:
        config["intermediate_size"] = spec.expert_width
    if family.name == "skywork-moe":
        config |= {"num_experts": [spec.num_experts], "moe_expert_interval": 1, "moe_2layer_gate": False}
        config |= {"moe_use_mixtral_gating": True, "moe_feature_no_mul_topk": True}
        if spec.gate_norm:
            config |= {"moe_use_logits_norm": True, "moe_gate_norm_std": spec.gate_norm}
    problem = difference(spec, read_spec(dict(config), family, CONFIG))
    if problem:
        raise _cannot_hold(family, problem)
    return {**config, **kept, "torch_dtype": dtype, "use_cache": True}


def _cannot_hold(family: Family, problem: str) -> InputError:
    return InputError(
        f"the family {family.name} cannot hold this model: {problem}",
        where="--family",
        hint=f"choose another of {', '.join(FAMILIES)}, or train a model of that family's shape",
    )


def choose_family(spec: ModelSpec) -> Family:
    """The first family that can hold the model. Raises InputError if none can."""
    for family in FAMILIES.values():
        try:
            write_config(spec, family, "float32", {})
            return family
        except InputError:
            continue
    raise InputError(
        "no family of Hugging Face models can hold this model",
        where="model",
        hint="--family NAME tells what does not fit",
    )


def kept_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in KEPT if config.get(name) is not None}
