"""The part of a model that `isthmus probe` runs: all of a small one, some layers of a large one."""

from msgspec.structs import replace

from isthmus.spec.count import count_params
from isthmus.spec.model import ModelSpec

FEWEST_LAYERS, MOST_LAYERS = 2, 8
"""Of each kind, dense and MoE."""
FEW_PARAMS = 2**25
"""A part of at most so many parameters may have more than the fewest layers: with few, caches keep some
of the weights from one micro-batch to the next, and layers seem faster than in the whole."""


def extract(model: ModelSpec) -> ModelSpec:
    """As many layers of each kind as are worth timing, the dense ones first; the rest as it is."""
    moe = len(model.moe_layers)
    dense = model.num_layers - moe
    for most in range(MOST_LAYERS, FEWEST_LAYERS, -1):
        part = layers_of(model, min(dense, most), min(moe, most))
        if count_params(part) <= FEW_PARAMS:
            return part
    return layers_of(model, min(dense, FEWEST_LAYERS), min(moe, FEWEST_LAYERS))


def layers_of(model: ModelSpec, dense: int, moe: int) -> ModelSpec:
    """`model` with so many dense layers, then so many MoE ones."""
    return replace(
        model,
        num_layers=dense + moe,
        first_moe_layer=dense if moe else 0,
        num_experts=model.num_experts if moe else 0,
        moe_every=1,
        dense_layers=[],
    )
