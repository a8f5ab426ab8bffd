"""`isthmus upcycle`."""

import sys
from pathlib import Path

import msgspec

from isthmus.rundir import RunDir
from isthmus.spec.count import count_active_params, count_params
from isthmus.spec.dump import as_yaml
from isthmus.spec.model import ModelSpec
from isthmus.train.export import open_newest
from isthmus.ui.bars import byte_bar
from isthmus.ui.start import run_from
from isthmus.units import Count
from isthmus.weights.folder import Card, is_model
from isthmus.weights.upcycle import Recipe
from isthmus.weights.upcycle_model import upcycle_model


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

    Each expert is a copy of its layer's feed-forward part; routers are new. Prints the part of a
    run.yaml that trains on from it. docs/upcycling.md says when this pays.

    Parameters
    ----------
    dense
        A run's folder, or a model folder such as `isthmus import` writes.
    out
        New folder to write.
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
        Print one JSON object instead.
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
    opened = open_newest(RunDir(dense) if is_model(dense) else RunDir.existing(dense))
    with byte_bar("upcycle") as told:
        card = upcycle_model(opened, out, recipe, told)
    _tell(card, opened.card.model, out, json_)


def _tell(card: Card, dense: ModelSpec, out: Path, json_: bool) -> None:
    run, model = run_from(card, out), card.model
    counts = {
        "num_params": count_params(model),
        "active_params": count_active_params(model),
        "dense_params": count_params(dense),
    }
    if json_:
        facts = {"folder": str(out), **counts, "bytes": sum(shard.size for shard in card.shards), "run": run}
        print(msgspec.json.encode(facts).decode())
        return
    total, active, was = map(Count, counts.values())
    layers = f"{len(model.moe_layers)} of {model.num_layers} layers have {model.num_experts} experts"
    print(
        f"made {total} parameters of {was}, {active} of them active per token, in {out}: {layers} of width "
        f"{model.expert_width}, {model.top_k} for each token",
        file=sys.stderr,
    )
    print(as_yaml(run), end="")
