"""Megatron-LM's two little languages: which layers a stage holds, which layers are MoE."""

import re
from itertools import groupby

from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.spec.model import ModelSpec

MAX_LAYERS = 100_000
LAYOUT = "--pipeline-model-parallel-layout"
FREQ = "--moe-layer-freq"


def write_layout(sizes: list[int]) -> str:
    """Layers of each chunk, in model order: [3, 4, 2] -> 'Et*3|t*4|t*2L' (embedding, transformer, loss)."""
    parts = ["" if not size else "t" if size == 1 else f"t*{size}" for size in sizes]
    parts[0] = f"E{parts[0]}"
    parts[-1] = f"{parts[-1]}L"
    return "|".join(parts)


def read_layout(text: str) -> tuple[list[int], int]:
    """'Ett|(tt|)*2,m|L' -> ([2, 2, 2, 0, 0], 1): layers of each chunk, and prediction layers 'm'.

    Raises InputError for other letters, or an embedding or loss that is not at the ends.
    """
    plain = _unroll(text.replace(",", "").replace(" ", ""))
    letters = plain.replace("|", "")
    if set(letters) - set("EtmL"):
        raise InputError(f"'{text}' has letters besides E, t, m and L", where=LAYOUT)
    if not (letters.startswith("E") and letters.endswith("L") and re.fullmatch("Et*m*L", letters)):
        raise InputError(
            f"'{text}' is not one embedding, then layers, then one loss", where=LAYOUT, hint="as 'Ett|ttL'"
        )
    return [chunk.count("t") for chunk in plain.split("|")], letters.count("m")


def _unroll(text: str) -> str:
    for pattern in (r"\(([^()]+)\)\*(\d{1,6})", r"([^*()])\*(\d{1,6})"):
        size = len(text) + sum(len(one) * int(times) for one, times in re.findall(pattern, text))
        if size > MAX_LAYERS:
            raise InputError(f"'{text[:80]}' has more than {MAX_LAYERS:,} layers", where=LAYOUT)
        text = re.sub(pattern, lambda match: match[1] * int(match[2]), text)
    return text


def write_freq(model: ModelSpec) -> str:
    """'1' where every layer is MoE, 'N' for each N-th from the first, else as '([0]*3+[1]*58)'."""
    if model.first_moe_layer == 0 and not model.dense_layers:
        return str(model.moe_every)
    kinds = [int(model.is_moe_layer(layer)) for layer in range(model.num_layers)]
    runs = [(kind, len(list(run))) for kind, run in groupby(kinds)]
    return "(" + "+".join(f"[{kind}]*{length}" for kind, length in runs) + ")"


def read_freq(text: str, model: ModelSpec) -> ModelSpec:
    """`model` with the MoE layers that the text says. Raises InputError where it cannot be read."""
    text = text.strip("\"' ")
    if text.isdecimal() and int(text) > 0:
        return replace(model, first_moe_layer=0, moe_every=int(text), dense_layers=[])
    kinds = _kinds(text.replace(" ", "").removeprefix("(").removesuffix(")"))
    if len(kinds) != model.num_layers:
        raise InputError(f"'{text}' tells of {len(kinds)} layers, not {model.num_layers}", where=FREQ)
    return with_moe_layers(model, [layer for layer, kind in enumerate(kinds) if kind])


def with_moe_layers(model: ModelSpec, layers: list[int]) -> ModelSpec:
    """The shortest description of just these MoE layers."""
    if not layers:
        return replace(model, num_experts=0, first_moe_layer=0, moe_every=1, dense_layers=[])
    first, every = layers[0], layers[1] - layers[0] if len(layers) > 1 else model.num_layers
    if layers == list(range(first, model.num_layers, every)):
        return replace(model, first_moe_layer=first, moe_every=every, dense_layers=[])
    dense = [layer for layer in range(first, model.num_layers) if layer not in set(layers)]
    return replace(model, first_moe_layer=first, moe_every=1, dense_layers=dense)


def _kinds(text: str) -> list[int]:
    kinds: list[int] = []
    for term in text.split("+"):
        match = re.fullmatch(r"\(*\[([01](?:,[01])*)\]\)*(?:\*(\d{1,6}))?\)*", term)
        if match is None or len(kinds) > MAX_LAYERS:
            raise InputError(f"'{text}' is not a pattern of layers", where=FREQ, hint="as '[0]*3+[1]*58'")
        kinds += [int(kind) for kind in match[1].split(",")] * int(match[2] or 1)
    return kinds
