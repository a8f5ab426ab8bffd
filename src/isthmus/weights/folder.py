"""A model folder: weights, shapes and tokenizer, whole or not there.

`model.safetensors` (or numbered shards and an index), the tokenizer's files and, written last, `model.json`:
the card with shapes and checksums. Tensors have the names and the layout of `isthmus.spec.count`.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from isthmus.errors import CorruptError, InputError
from isthmus.journal.store import DiskStore
from isthmus.spec.count import param_shapes
from isthmus.spec.model import ModelSpec
from isthmus.weights.shards import WEIGHTS, Progress, Shard, unheard
from isthmus.weights.source import CHUNK_BYTES, FileSource, Source

CARD = "model.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
FORMAT = 2


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """model.json: what the weights are."""

    model: ModelSpec
    tokens: int
    """What it was trained on here, over all sites."""
    version: int
    eos_id: int
    """-1 where there is no tokenizer.json."""
    shards: list[Shard] = []
    family: str = ""
    """Of a model from Hugging Face."""
    kept: dict[str, Any] = {}
    """Its config.json's fields that do not change what it computes, for the way back."""
    format: int = FORMAT


class _Card1(msgspec.Struct, kw_only=True):
    """Format 1: one fp32 file; the model's fields held a coefficient that training has now."""

    model: dict[str, Any]
    tokens: int
    version: int
    eos_id: int
    size: int
    xxh3: str


@dataclass(frozen=True)
class Opened:
    """Weights that can be read, and what is known of them."""

    card: Card
    source: Source
    path: Path
    """Of the weights."""
    folder: Path
    """Where the tokenizer's files are."""


def is_model(folder: Path) -> bool:
    return (folder / CARD).is_file()


def write_card(folder: Path, card: Card) -> None:
    """The last file of a model folder. Raises StorageError."""
    DiskStore().write_atomic(folder / CARD, msgspec.json.format(msgspec.json.encode(card)))


def read_card(folder: Path) -> Card:
    """Raises NotFoundError where there is no model, CorruptError, InputError for a newer format."""
    path = folder / CARD
    raw = DiskStore().read(path)
    try:
        number = msgspec.json.decode(raw, type=dict).get("format", 1)
        if number == 1:
            return _from_format_1(msgspec.json.decode(raw, type=_Card1))
        if number == FORMAT:
            return msgspec.json.decode(raw, type=Card)
    except msgspec.MsgspecError as error:
        raise CorruptError(f"damaged: {error}", where=str(path), hint="export the model again") from error
    raise InputError(f"the format is {number}", where=str(path), hint="use a newer isthmus to read it")


def _from_format_1(old: _Card1) -> Card:
    model = {name: value for name, value in old.model.items() if name != "aux_loss_coef"}
    return Card(
        model=msgspec.convert(model, ModelSpec),
        tokens=old.tokens,
        version=old.version,
        eos_id=old.eos_id,
        shards=[Shard(name=WEIGHTS, size=old.size, xxh3=old.xxh3)],
        format=1,
    )


def open_model(folder: Path, told: Progress = unheard) -> Opened:
    """Checks every byte against the card's checksums first, a piece at a time, of which `told` hears.

    Raises NotFoundError where no model was finished, CorruptError.
    """
    card = read_card(folder)
    done, total = 0, sum(shard.size for shard in card.shards)
    for shard in card.shards:
        for num_bytes in _checked(folder / shard.name, shard):
            done += num_bytes
            told(done, total)
    source = FileSource([folder / shard.name for shard in card.shards])
    shapes = dict(param_shapes(card.model))
    found = {name: info.shape for name, info in source.infos.items()}
    if found != shapes:
        names = sorted(name for name in found.keys() | shapes if found.get(name) != shapes.get(name))
        raise CorruptError(f"'{names[0]}' is not as model.json says", where=str(folder))
    path = folder / (card.shards[0].name if len(card.shards) == 1 else CARD)
    return Opened(card, source, path, folder)


def _checked(path: Path, shard: Shard) -> Iterator[int]:
    """Bytes as they are read. Raises CorruptError at the end if they are not those of the card."""
    store, digest, done = DiskStore(), xxhash.xxh3_128(), 0
    if store.size(path) == shard.size:
        while done < shard.size:
            piece = store.read(path, done, CHUNK_BYTES)
            digest.update(piece)
            done += len(piece)
            yield len(piece)
    if done != shard.size or digest.hexdigest() != shard.xxh3:
        raise CorruptError(
            "the weights do not match the checksum in model.json",
            where=str(path),
            hint="take another copy of the folder",
        )


@contextlib.contextmanager
def appears_whole(target: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `target`, durably, if the block ends well, and is gone otherwise.

    What a killed process left beside `target` is removed first. Raises InputError where `target` holds
    anything already.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError("is there already", where=str(target), hint="name a new folder, or remove this one")
    store, target = DiskStore(), target.absolute()
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    store.make_folder(aside)
    try:
        yield aside
        store.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def copy_files(source: Path, target: Path, names: Sequence[str]) -> list[str]:
    """Copy those small files of `names` that there are, durably; returns which."""
    store, copied = DiskStore(), []
    for name in names:
        if (source / name).is_file():
            store.write_atomic(target / name, store.read(source / name))
            copied.append(name)
    return copied
