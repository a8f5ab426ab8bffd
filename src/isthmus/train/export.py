"""The trained model as files that stand alone, and which of a run's weights are the newest. No torch here.

`final/` is a model folder (see `isthmus.weights.folder`), in fp32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from isthmus.data.tokenizer import TextTokenizer, load_tokenizer
from isthmus.errors import InputError, IsthmusError, NotFoundError
from isthmus.journal.store import DiskStore
from isthmus.rundir import RunDir
from isthmus.spec.model import ModelSpec
from isthmus.train.checkpoint import CHECKPOINTS, Checkpoint, load_newest
from isthmus.weights.alike import difference
from isthmus.weights.folder import (
    CARD,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Card,
    Opened,
    is_model,
    open_model,
    read_card,
    write_card,
)
from isthmus.weights.shards import Progress, unheard, write_shards
from isthmus.weights.source import ArraySource, Floats
from isthmus.weights.tensorfile import Arrays


@dataclass(frozen=True)
class Weights:
    """A model to run."""

    model: ModelSpec
    parameters: Mapping[str, np.ndarray]
    """fp32, each read when it is asked for."""
    tokenizer: TextTokenizer
    path: Path
    tokens: int
    version: int


def save_final(
    folder: Path, parameters: Arrays, model: ModelSpec, tokenizer: TextTokenizer, *, tokens: int, version: int
) -> None:
    """Write the trained model to `folder` (`RunDir.final`), durably. Raises StorageError.

    Args:
        parameters: fp32 arrays by parameter name.
        tokens: trained on in total, over all sites.
    """
    store, source = DiskStore(), ArraySource(parameters)
    store.make_folder(folder)
    store.delete(folder / CARD)
    shards = write_shards(folder, source.infos, lambda name: [parameters[name]])
    save_tokenizer(folder, tokenizer)
    card = Card(model=model, tokens=tokens, version=version, eos_id=tokenizer.eos_id, shards=shards)
    write_card(folder, card)


def save_tokenizer(folder: Path, tokenizer: TextTokenizer) -> None:
    """The tokenizer and which of its tokens ends a text, for whoever runs the weights in `folder`."""
    store = DiskStore()
    store.make_folder(folder)
    store.write_atomic(folder / TOKENIZER, tokenizer.raw)
    store.write_atomic(folder / TOKENIZER_CONFIG, msgspec.json.encode({"eos_token": tokenizer.eos}))


def load_final(folder: Path) -> Weights:
    """Raises NotFoundError if no model was finished here, CorruptError if its files are damaged."""
    return _weights(open_model(folder))


def load_newest_weights(run: RunDir) -> Weights:
    """Of a run, or a model folder in its place; see `open_newest`."""
    return _weights(open_newest(run))


def _weights(opened: Opened) -> Weights:
    card, tokenizer = opened.card, load_tokenizer(opened.folder)
    return Weights(card.model, Floats(opened.source), tokenizer, opened.path, card.tokens, card.version)


def open_newest(run: RunDir, told: Progress = unheard) -> Opened:
    """The finished model; before there is one, the site's checkpoint that has come furthest.

    `told` hears of the bytes that are checked. The path may be a model folder's instead. Raises NotFoundError
    where there is neither.
    """
    for folder in (run.path, run.final):
        if is_model(folder):
            return open_model(folder, told)
    found: list[tuple[Checkpoint, Path]] = []
    for folder in sorted(run.path.glob(f"sites/*/{CHECKPOINTS}")):
        checkpoint, _ = load_newest(DiskStore(), folder)
        if checkpoint:
            found.append((checkpoint, folder.parent))
    if not found:
        raise no_weights(run)
    checkpoint, site = max(found, key=lambda pair: pair[0].facts.progress)
    facts, tokenizer = checkpoint.facts, load_tokenizer(site)
    card = Card(
        model=facts.model, tokens=facts.tokens, version=facts.version, eos_id=tokenizer.eos_id, shards=[]
    )
    return Opened(card, ArraySource(checkpoint.parameters), checkpoint.path, site)


def has_weights(run: RunDir) -> bool:
    """Whether there is anything to load, by name alone."""
    known = is_model(run.path) or is_model(run.final)
    return known or any(run.path.glob(f"sites/*/{CHECKPOINTS}/step-*.json"))


def no_weights(run: RunDir) -> IsthmusError:
    return NotFoundError(
        "this run has no weights yet",
        where=str(run.path),
        hint="wait for its first checkpoint (train.checkpoint_every); `isthmus status` tells where it stands",
    )


def check_start(folder: Path, model: ModelSpec, tokenizer: str = "") -> None:
    """That a run of `model` can start from the weights in `folder` (train.init_from), by the card alone.

    `tokenizer` is the run's data.tokenizer. Raises InputError naming the first field that differs, or for a
    tokenizer that the weights have not seen, and NotFoundError where there is no model.
    """
    if not is_model(folder):
        raise NotFoundError(
            "there is no model here",
            where=f"train.init_from: {folder}",
            hint="give a folder that `isthmus import` wrote, or the final/ of a run",
        )
    problem = difference(model, read_card(folder).model, ignore=("max_seq_len",))
    if problem:
        raise InputError(
            f"the run's model is not that of the weights: {problem}",
            where=f"train.init_from: {folder}",
            hint="`isthmus import` prints the `model:` that fits; so does the folder's model.json",
        )
    if tokenizer == "train" and (folder / TOKENIZER).is_file():
        raise InputError(
            "the weights come with a tokenizer, and the run trains another one",
            where="data.tokenizer",
            hint=f"set data.tokenizer: {folder / TOKENIZER}",
        )
