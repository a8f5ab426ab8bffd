"""A dense model made into a Mixture-of-Experts model that computes the same (arXiv 2212.05055).

Every expert is a copy of its layer's feed-forward part, and the router is new. A token's weights sum to
one, so whichever copies it is sent to, it gets the dense layer's output (arXiv 2406.06563, section 3).

With a granularity g each copy is cut into g experts of 1/g of its width, as SwiGLU is a sum over its width
(arXiv 2410.07524). They lie side by side and share one router row: equal logits are chosen in the order of
their indices, so whole copies are. Each piece has 1/g of its copy's weight, which `route_scale` makes good.
"""

import math
from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from isthmus.errors import InputError
from isthmus.models.draws import ROUTER_STD, normal
from isthmus.spec.count import param_shapes
from isthmus.spec.model import ModelSpec

Read = Callable[[str], np.ndarray]
Named = tuple[str, np.ndarray]

TIE_MULTIPLE = 4
"""Matrix kernels may add up the last rows of a router in another order than the first ones. Logits of equal
rows then differ by a rounding, and a token may be sent to pieces of different copies. MKL does so, with up to
96 rows of up to 4,608, unless the number of rows is a multiple of this."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What to make of a dense model."""

    copies: int = 16
    """Copies of each feed-forward part; times `granularity`: experts of a layer."""
    top_k: int = 2
    """Copies' worth of experts that each token is sent to."""
    granularity: int = 1
    """Experts that each copy is cut into."""
    moe_every: int = 1
    first_moe_layer: int = 0
    """Both as in ModelSpec."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on the experts, relative to that of the matrix. With it the model
    is only near the dense one."""
    seed: int = 0
    """Of routers and noise."""


def moe_spec(dense: ModelSpec, recipe: Recipe) -> ModelSpec:
    """Shapes of the upcycled model. Raises InputError where there is none."""
    _check(dense, recipe)
    return msgspec.structs.replace(
        dense,
        num_experts=recipe.copies * recipe.granularity,
        top_k=recipe.top_k * recipe.granularity,
        expert_ffn_size=dense.ffn_size // recipe.granularity,
        first_moe_layer=recipe.first_moe_layer,
        moe_every=recipe.moe_every,
        dense_layers=[],
        shared_ffn_size=0,
        renormalize=True,
        route_scale=float(recipe.granularity),
    )


def upcycled(dense: ModelSpec, recipe: Recipe, read: Read) -> Iterator[Named]:
    """(name, array) of each parameter of `moe_spec(dense, recipe)`, in the order of `param_shapes`.

    Holds one layer's feed-forward part at a time. Arrays are fp32; copies without noise are one array.

    Args:
        read: the dense model's parameter of that name, fp32; called once for each, in the model's order.
    """
    moe = moe_spec(dense, recipe)
    for name, _ in param_shapes(dense):
        layer, is_ffn, part = name.partition(".ffn.")
        if not is_ffn or not moe.is_moe_layer(int(layer.removeprefix("layers."))):
            yield name, read(name)
        elif part == "gate_up.weight":
            yield from _layer(layer, moe, recipe, read)


def _layer(layer: str, moe: ModelSpec, recipe: Recipe, read: Read) -> Iterator[Named]:
    """Router and experts of one layer."""
    name = f"{layer}.moe.router.weight"
    rows = normal(recipe.seed, name, (recipe.copies, moe.hidden_size)) * np.float32(ROUTER_STD)
    yield name, rows.repeat(recipe.granularity, axis=0)
    if moe.router_bias:
        yield f"{layer}.moe.router.bias", np.zeros(moe.num_experts, np.float32)
    pieces = _pieces(
        read(f"{layer}.ffn.gate_up.weight"), read(f"{layer}.ffn.down.weight"), recipe.granularity
    )
    for expert in range(moe.num_experts):
        gate_up, down = pieces[expert % recipe.granularity]
        name = f"{layer}.moe.experts.{expert}"
        yield f"{name}.gate_up", _noisy(f"{name}.gate_up", gate_up, recipe)
        yield f"{name}.down", _noisy(f"{name}.down", down, recipe)


def _pieces(gate_up: np.ndarray, down: np.ndarray, granularity: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """From gate_up [2F, D] and down [D, F] the pairs [D, 2F/g] and [F/g, D], [in, out] as experts are."""
    gates, ups = (np.split(half, granularity) for half in np.split(gate_up, 2))
    downs = np.split(down, granularity, axis=1)
    return [
        (np.ascontiguousarray(np.concatenate([gate, up]).T), np.ascontiguousarray(out.T))
        for gate, up, out in zip(gates, ups, downs, strict=True)
    ]


def _noisy(name: str, array: np.ndarray, recipe: Recipe) -> np.ndarray:
    if not recipe.noise:
        return array
    return array + normal(recipe.seed, name, array.shape) * np.float32(recipe.noise * array.std())


def _check(dense: ModelSpec, recipe: Recipe) -> None:
    copies, top_k, granularity = recipe.copies, recipe.top_k, recipe.granularity
    rules = (
        (dense.num_experts == 0, "the model", f"it has {dense.num_experts} experts already",
         "give a dense model"),
        (copies >= 2, "--experts", f"{copies} is too few", "2 or more; the paper has 16"),
        (1 <= top_k <= copies, "--top-k", f"{top_k} of {copies} experts cannot be chosen",
         f"from 1 to {copies}"),
        (granularity >= 1 and dense.ffn_size % max(1, granularity) == 0, "--granularity",
         f"{granularity} does not divide the width {dense.ffn_size}", "1 leaves the experts whole"),
        (granularity == 1 or copies * granularity % TIE_MULTIPLE == 0, "--granularity",
         f"{copies} x {granularity} experts are no multiple of {TIE_MULTIPLE}, which equal router rows need "
         "to tie exactly", "change --experts"),
        (recipe.moe_every >= 1, "--moe-every", f"{recipe.moe_every} is too few", "1 makes every layer MoE"),
        (0 <= recipe.first_moe_layer < dense.num_layers, "--first-moe-layer",
         f"{recipe.first_moe_layer} is none of {dense.num_layers} layers", "count from 0"),
        (math.isfinite(recipe.noise) and recipe.noise >= 0, "--noise",
         f"{recipe.noise} is no standard deviation", "0 to about 0.1, relative to that of the weights"),
    )  # fmt: skip
    for fine, where, message, hint in rules:
        if not fine:
            raise InputError(message, where=where, hint=hint)
