"""One training of the comparison: the dense model taken further, upcycled, or an MoE model from scratch."""

from typing import NamedTuple

import numpy as np
import torch

from isthmus.comm.collective import SoloCollective
from isthmus.data.dataset import Dataset, open_prepared
from isthmus.models.init import init_weights
from isthmus.models.similarity import expert_similarity
from isthmus.models.transformer import Transformer
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import DataSpec, TrainSpec
from isthmus.train.learner import Learner
from isthmus.train.schedule import learning_rate
from isthmus.weights.tensorfile import Arrays
from isthmus.weights.upcycle import Recipe, moe_spec, upcycled

DENSE = ModelSpec(
    vocab_size=512, hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32, ffn_size=192
)
BATCH, SEQ_LEN = 16, 64
BASE = TrainSpec(batch_size=BATCH, lr=8e-3, schedule="constant")
"""Of the dense model before it is upcycled: without a decay, so that it can be taken further."""
HELD_OUT = 512
NUM_LOOKS = 10


class Arm(NamedTuple):
    """`num_steps` on the text after that of the dense model's first `base_steps`."""

    name: str
    base_steps: int
    num_steps: int
    recipe: Recipe | None = None
    """None: dense."""
    is_new: bool = False
    """Starts from random weights."""
    lr: float = 4e-3
    seed: int = 0


class Curve(NamedTuple):
    """At the start and after each tenth of the steps."""

    losses: list[float]
    """Nats per token of held-out text."""
    similarity: list[float]
    """Of experts, mean over the layers; nothing for a dense model."""


def data_spec(seed: int) -> DataSpec:
    return DataSpec(seq_len=SEQ_LEN, seed=seed)


def train_base(seed: int, num_steps: int) -> dict[str, np.ndarray]:
    """The dense model's parameters after its first steps."""
    learner, dataset = _learner(DENSE, BASE, None, seed), open_prepared(data_spec(seed), DENSE.vocab_size)
    for step in range(num_steps):
        learner.step(_rows(dataset, step), learning_rate(BASE, (step + 1) / num_steps))
    return {name: array.copy() for name, array in learner.parameters().items()}


def train_arm(arm: Arm, base: Arrays) -> Curve:
    model, parameters = start(arm.recipe, base)
    spec = TrainSpec(batch_size=BATCH, lr=arm.lr, warmup=0.05)
    learner = _learner(model, spec, None if arm.is_new else parameters, arm.seed)
    dataset = open_prepared(data_spec(arm.seed), DENSE.vocab_size)
    held_out = dataset.held_out(HELD_OUT)
    curve = Curve([], [])
    _look(learner, held_out, curve)
    for step in range(arm.num_steps):
        lr = learning_rate(spec, (step + 1) / arm.num_steps)
        learner.step(_rows(dataset, arm.base_steps + step), lr)
        if (step + 1) * NUM_LOOKS // arm.num_steps > step * NUM_LOOKS // arm.num_steps:
            _look(learner, held_out, curve)
    return curve


def start(recipe: Recipe | None, base: Arrays) -> tuple[ModelSpec, Arrays]:
    """The model that an arm trains, with its weights where they come from the dense model."""
    if recipe is None:
        return DENSE, base
    return moe_spec(DENSE, recipe), dict(upcycled(DENSE, recipe, base.__getitem__))


@torch.no_grad()
def logit_difference(recipe: Recipe, base: Arrays) -> float:
    """Largest difference between the logits of the dense and of the upcycled model, on held-out text."""
    tokens, _ = open_prepared(data_spec(0), DENSE.vocab_size).held_out(64)
    before, after = (
        _model(*start(each, base))(torch.from_numpy(tokens[:, :-1])).logits for each in (None, recipe)
    )
    return float((after - before).abs().max())


def _model(spec: ModelSpec, parameters: Arrays) -> Transformer:
    model = Transformer(spec)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(parameters[name]))
    return model


def _learner(spec: ModelSpec, train: TrainSpec, parameters: Arrays | None, seed: int) -> Learner:
    if parameters is None:
        model = Transformer(spec)
        init_weights(model, seed)
    else:
        model = _model(spec, parameters)
    return Learner(model, train, SoloCollective(), BATCH)


def _rows(dataset: Dataset, step: int) -> tuple[np.ndarray, np.ndarray]:
    return dataset.batch(np.arange(step * BATCH, (step + 1) * BATCH, dtype=np.int64))


def _look(learner: Learner, held_out: tuple[np.ndarray, np.ndarray], curve: Curve) -> None:
    curve.losses.append(learner.evaluate(held_out))
    layers = expert_similarity(learner.model)
    if layers:
        curve.similarity.append(sum(layers) / len(layers))
