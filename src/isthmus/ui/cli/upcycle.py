"""`isthmus upcycle`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from isthmus.errors import InputError
from isthmus.rundir import RunDir
from isthmus.spec.count import count_active_params, count_params
from isthmus.spec.model import ModelSpec
from isthmus.train.export import CARD, Weights, load_final, load_newest_weights, save_final
from isthmus.ui import tables, text
from isthmus.weights.upcycle import Named, Recipe, moe_spec, upcycled


class Upcycled(msgspec.Struct, frozen=True, kw_only=True):
    """What --json prints."""

    path: str
    dense: str
    model: ModelSpec
    params: int
    active_params: int
    dense_params: int


def upcycle(  # noqa: PLR0913 (one for each option)
    dense: Path,
    out: Path,
    *,
    experts: int = 16,
    top_k: int = 2,
    granularity: int = 1,
    moe_every: int = 1,
    first_moe_layer: int = 0,
    noise: float = 0.0,
    seed: int = 0,
    json_: bool = False,
) -> None:
    """Make a Mixture-of-Experts model of a dense one that computes the same.

    Each expert is a copy of its layer's feed-forward part; routers are new. docs/upcycling.md says
    when this pays, and how to train on.

    Parameters
    ----------
    dense
        The folder of a run, or of a model, such as RUN/final.
    out
        Folder to write the new model to.
    experts
        Copies of each layer's feed-forward part.
    top_k
        Copies that each token is sent to.
    granularity
        Cut each copy into this many narrower experts, and send each token to as many times more of them.
    moe_every
        Make every layer, every second one, ... MoE.
    first_moe_layer
        Layers before this one stay dense.
    noise
        Standard deviation of Gaussian noise on the experts, relative to that of their weights.
        With it the new model is only near the dense one.
    seed
        Of routers and noise.
    json_
        Print one JSON object.
    """
    recipe = Recipe(
        copies=experts,
        top_k=top_k,
        granularity=granularity,
        moe_every=moe_every,
        first_moe_layer=first_moe_layer,
        noise=noise,
        seed=seed,
    )
    if (out / CARD).exists():
        raise InputError("there is a model here already", where=str(out), hint="name another folder")
    is_model = (dense / CARD).exists()
    weights = load_final(dense) if is_model else load_newest_weights(RunDir.existing(dense))
    model = moe_spec(weights.model, recipe)
    _write(out, weights, model, upcycled(weights.model, recipe, weights.parameters.__getitem__))
    _print(
        Upcycled(
            path=str(out),
            dense=str(weights.path),
            model=model,
            params=count_params(model),
            active_params=count_active_params(model),
            dense_params=count_params(weights.model),
        ),
        json_,
    )


def _write(out: Path, weights: Weights, model: ModelSpec, tensors: Iterator[Named]) -> None:
    parameters = dict(_shown(tensors, count_params(model)))
    save_final(out, parameters, model, weights.tokenizer, tokens=weights.tokens, version=weights.version)


def _shown(tensors: Iterator[Named], num_params: int) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors as they come, with a bar on a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    console = tables.console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("experts", total=num_params)
        for name, array in tensors:
            yield name, array
            bar.advance(task, array.size)


def _print(made: Upcycled, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(made).decode())
        return
    model = made.model
    print(
        f"{made.path}: {text.number(made.params)} parameters, {text.number(made.active_params)} for each "
        f"token ({text.number(made.dense_params)} in the dense model)\n"
        f"{len(model.moe_layers)} of {model.num_layers} layers are MoE, with {model.num_experts} experts of "
        f"width {model.expert_width}, {model.top_k} for each token"
    )
