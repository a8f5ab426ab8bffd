"""A dense model on the disk upcycled into a new model folder, a layer's feed-forward part at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from isthmus.spec.count import param_shapes
from isthmus.weights.folder import Card, Opened, appears_whole, copy_files, write_card
from isthmus.weights.formats import convert
from isthmus.weights.hf.tokenizer import FILES
from isthmus.weights.shards import SHARD_BYTES, Progress, unheard, write_shards
from isthmus.weights.source import Floats, Info
from isthmus.weights.upcycle import Recipe, moe_spec, upcycled


def upcycle_model(
    opened: Opened, out: Path, recipe: Recipe, told: Progress = unheard, shard_bytes: int = SHARD_BYTES
) -> Card:
    """Write the new folder `out`, which appears whole or not at all, in the number format of the dense model.

    Raises InputError where such a model cannot be upcycled so, or `out` is there; CorruptError, StorageError.
    """
    dense, source = opened.card, opened.source
    model = moe_spec(dense.model, recipe)
    stored = max(source.infos.values(), key=lambda info: info.num_bytes).dtype
    infos = {name: source.infos.get(name) or Info(stored, shape) for name, shape in param_shapes(model)}
    tensors = upcycled(dense.model, recipe, Floats(source).__getitem__)

    def body(name: str) -> Iterator[np.ndarray]:
        made, array = next(tensors)
        assert made == name, f"{made} comes before {name}"
        yield convert(array, "F32", infos[name].dtype)

    with appears_whole(out) as folder:
        copy_files(opened.folder, folder, FILES)
        shards = write_shards(folder, infos, body, told, shard_bytes)
        card = Card(
            model=model, tokens=dense.tokens, version=dense.version, eos_id=dense.eos_id, shards=shards
        )
        write_card(folder, card)
    return card
