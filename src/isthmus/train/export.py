"""The trained model as files that stand alone, and which of a run's weights are the newest. No torch here.

`final/` holds `model.safetensors` (fp32, by parameter name), `tokenizer.json`, and, written last,
`model.json`.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import xxhash

from isthmus.data.tokenizer import TextTokenizer
from isthmus.errors import CorruptError, IsthmusError, NotFoundError
from isthmus.journal.store import DiskStore
from isthmus.rundir import RunDir
from isthmus.spec.model import ModelSpec
from isthmus.train.checkpoint import CHECKPOINTS, load_newest
from isthmus.train.tensorfile import Arrays, pack, unpack

WEIGHTS, TOKENIZER, CARD = "model.safetensors", "tokenizer.json", "model.json"


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """model.json: what the weights are."""

    model: ModelSpec
    tokens: int
    """What it was trained on, over all sites."""
    version: int
    eos_id: int
    size: int
    xxh3: str
    """XXH3-128 of model.safetensors, hexadecimal."""
    format: int = 1


@dataclass(frozen=True)
class Weights:
    """A model to run."""

    model: ModelSpec
    parameters: Arrays
    tokenizer: TextTokenizer
    path: Path
    tokens: int
    version: int


def save_final(
    folder: Path, parameters: Arrays, model: ModelSpec, tokenizer: TextTokenizer, *, tokens: int, version: int
) -> None:
    """Write the trained model to `folder` (`RunDir.final`), durably. Raises StorageError.

    Args:
        parameters: fp32 arrays by parameter name, C-contiguous.
        tokens: trained on in total, over all sites.
    """
    store = DiskStore()
    buffers = pack(parameters, {"format": "pt"})
    digest = xxhash.xxh3_128()
    for buffer in buffers:
        digest.update(buffer)
    card = Card(
        model=model,
        tokens=tokens,
        version=version,
        eos_id=tokenizer.eos_id,
        size=sum(buffer.nbytes for buffer in buffers),
        xxh3=digest.hexdigest(),
    )
    store.make_folder(folder)
    store.delete(folder / CARD)
    store.write_atomic(folder / WEIGHTS, *buffers)
    save_tokenizer(folder, tokenizer)
    store.write_atomic(folder / CARD, msgspec.json.format(msgspec.json.encode(card)))


def save_tokenizer(folder: Path, tokenizer: TextTokenizer) -> None:
    """tokenizer.json in `folder`, for whoever runs the weights that are there."""
    store = DiskStore()
    store.make_folder(folder)
    store.write_atomic(folder / TOKENIZER, tokenizer.raw)


def load_final(folder: Path) -> Weights:
    """Raises NotFoundError if no model was finished here, CorruptError if its files are damaged."""
    store = DiskStore()
    where = str(folder / CARD)
    try:
        card = msgspec.json.decode(store.read(folder / CARD), type=Card)
    except msgspec.MsgspecError as error:
        raise CorruptError(f"damaged: {error}", where=where, hint="export the model again") from error
    file = store.read(folder / WEIGHTS)
    if file.nbytes != card.size or xxhash.xxh3_128_hexdigest(file) != card.xxh3:
        raise CorruptError(
            "the weights do not match the checksum in model.json",
            where=str(folder / WEIGHTS),
            hint="take another copy of the folder",
        )
    parameters = unpack(file, str(folder / WEIGHTS))
    tokenizer = _tokenizer(folder)
    return Weights(card.model, parameters, tokenizer, folder / WEIGHTS, card.tokens, card.version)


def load_newest_weights(run: RunDir) -> Weights:
    """The finished model; before there is one, the site's checkpoint that has come furthest.

    Raises NotFoundError where there is neither.
    """
    if (run.final / CARD).exists():
        return load_final(run.final)
    found: list[Weights] = []
    progress: list[float] = []
    for folder in sorted(run.path.glob(f"sites/*/{CHECKPOINTS}")):
        checkpoint, _ = load_newest(DiskStore(), folder)
        if checkpoint:
            facts, tokenizer = checkpoint.facts, _tokenizer(folder.parent)
            progress.append(facts.progress)
            found.append(
                Weights(
                    facts.model,
                    checkpoint.parameters,
                    tokenizer,
                    checkpoint.path,
                    facts.tokens,
                    facts.version,
                )
            )
    if not found:
        raise no_weights(run)
    return found[progress.index(max(progress))]


def has_weights(run: RunDir) -> bool:
    """Whether there is anything to load, by name alone."""
    return (run.final / CARD).exists() or any(run.path.glob(f"sites/*/{CHECKPOINTS}/step-*.json"))


def no_weights(run: RunDir) -> IsthmusError:
    return NotFoundError(
        "this run has no weights yet",
        where=str(run.path),
        hint="wait for its first checkpoint (train.checkpoint_every); `isthmus status` tells where it stands",
    )


def _tokenizer(folder: Path) -> TextTokenizer:
    return TextTokenizer(bytes(DiskStore().read(folder / TOKENIZER)), str(folder / TOKENIZER))
