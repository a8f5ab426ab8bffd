"""torchtitan's model flavors of public dimensions, by the name of the published model.

Read in pytorch/torchtitan at v0.2.2, torchtitan/models/*/__init__.py.
"""

from isthmus.errors import InputError
from isthmus.planner.models.catalogue import find_model
from isthmus.planner.models.known import KnownModel
from isthmus.spec.model import ModelSpec

_FLAVORS = {
    "llama3": {"8B": "Llama3-8B", "70B": "Llama3-70B", "405B": "Llama3-405B"},
    "llama4": {"17bx16e": "Llama4-Scout-17B-16E", "17bx128e": "Llama4-Maverick-17B-128E"},
    "deepseek_v3": {"16B": "DeepSeek-V2-Lite", "236B": "DeepSeek-V2", "671B": "DeepSeek-V3"},
    "qwen3": {
        size: f"Qwen3-{size}" for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B", "30B-A3B", "235B-A22B")
    },
}
_VARIANTS = ("_flex_attn", "_varlen_attn", "_flex", "_varlen", "_irope")
"""Other attention kernels and positions, the same matrices."""


def find_flavor(name: str, flavor: str) -> KnownModel:
    """Raises InputError for a model or flavor whose dimensions are not known, with those that are."""
    plain = flavor
    for variant in _VARIANTS:
        plain = plain.removesuffix(variant)
    if name not in _FLAVORS:
        raise InputError(
            f"'{name}' is not a model with known shapes", where="model.name", hint=", ".join(_FLAVORS)
        )
    known = find_model(_FLAVORS[name].get(plain, ""))
    if known is None:
        raise InputError(
            f"{name} has no flavor '{flavor}' with known shapes",
            where="model.flavor",
            hint=", ".join(_FLAVORS[name]),
        )
    return known


def flavor_of(model: ModelSpec) -> tuple[str, str]:
    """(name, flavor) of these shapes. Raises InputError where torchtitan has no such flavor."""
    for name, flavors in _FLAVORS.items():
        for flavor in flavors:
            if shapes(find_flavor(name, flavor).model) == shapes(model):
                return name, flavor
    raise InputError(
        "torchtitan has no flavor of these shapes",
        where="model",
        hint="it takes flavors by name only: "
        + ", ".join(f"{name} {'/'.join(f)}" for name, f in _FLAVORS.items()),
    )


def shapes(model: ModelSpec) -> tuple[object, ...]:
    """What decides the sizes of all matrices."""
    experts = (model.num_experts, model.top_k, model.expert_width, model.shared_ffn_size)
    return (
        model.num_layers,
        model.hidden_size,
        model.num_heads,
        model.num_kv_heads,
        model.head_dim,
        model.ffn_size,
        model.vocab_size,
        model.tied_head,
        tuple(model.moe_layers),
        experts if model.num_experts else (),
    )
