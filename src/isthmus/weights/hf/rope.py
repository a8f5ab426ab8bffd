"""The rotary embedding's fields of config.json, in the older form and that of transformers 5.

Older: `rope_theta` and `rope_scaling`; newer: both in `rope_parameters`. The older is written: both read it.
"""

from typing import Any

from isthmus.errors import InputError
from isthmus.spec.model import RopeScaling

_NAMES = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "original_max_position_embeddings": "original_max_seq_len",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_max_seq_len",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
    },
}
"""Of each kind: config.json -> RopeScaling."""

_OPTIONAL = ("original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor")
_NO_EFFECT: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (None, 1.0),
    "truncate": (None, True),
    "mscale": (None,),
    "mscale_all_dim": (None,),
}
"""Values with which a field changes nothing."""


def read_rope(config: dict[str, Any], default_theta: float, where: str) -> tuple[float, dict[str, Any]]:
    """(rope_theta, fields of RopeScaling). Raises InputError for what is not understood."""
    fields = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    theta = fields.pop("rope_theta", None) or config.get("rope_theta") or default_theta
    older, newer = fields.pop("type", None), fields.pop("rope_type", None)
    kind = newer or older or "default"
    fields = {name: value for name, value in fields.items() if value not in _NO_EFFECT.get(name, (None,))}
    if kind == "default":
        names: dict[str, str] = {}
    elif kind in _NAMES:
        names = _NAMES[kind]
    else:
        raise InputError(
            f"rope_scaling is of type '{kind}'",
            where=where,
            hint=f"only {', '.join(['default', *_NAMES])} are understood",
        )
    for name, value in fields.items():
        if name not in names:
            raise InputError(
                f"rope_scaling has {name}: {value}, which isthmus does not know for '{kind}'",
                where=where,
                hint="such a model would compute something else here; choose another one",
            )
    for name in names:
        if name not in fields and name not in _OPTIONAL:
            raise InputError(f"rope_scaling has no {name}", where=where, hint=f"'{kind}' needs it")
    values = {names[name]: value for name, value in fields.items()}
    if kind == "llama3" and not values["low_freq_factor"] < values["high_freq_factor"]:
        raise InputError(
            "rope_scaling has no high_freq_factor above its low_freq_factor",
            where=where,
            hint="mend config.json",
        )
    if "original_max_position_embeddings" in names and "original_max_seq_len" not in values:
        values["original_max_seq_len"] = config.get("max_position_embeddings")
    return theta, {"kind": "none" if kind == "default" else kind, **values}


def write_rope(theta: float, scaling: RopeScaling) -> dict[str, Any]:
    """Fields of config.json."""
    if scaling.kind == "none":
        return {"rope_theta": theta, "rope_scaling": None}
    values = {name: getattr(scaling, ours) for name, ours in _NAMES[scaling.kind].items()}
    if values.get("attention_factor") == 0:
        values.pop("attention_factor")
    return {"rope_theta": theta, "rope_scaling": {"rope_type": scaling.kind, **values}}
