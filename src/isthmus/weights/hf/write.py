"""A model of ours as a Hugging Face model, with the memory of one tensor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from isthmus.errors import InputError
from isthmus.journal.store import DiskStore
from isthmus.weights.folder import Opened, appears_whole
from isthmus.weights.hf.config import CONFIG, choose_family, write_config
from isthmus.weights.hf.families import FAMILIES
from isthmus.weights.hf.links import links
from isthmus.weights.hf.move import to_theirs
from isthmus.weights.hf.tokenizer import give_tokenizer
from isthmus.weights.shards import SHARD_BYTES, Progress, unheard, write_shards
from isthmus.weights.source import Info

Dtype = Literal["stored", "bf16", "fp32"]

_FORMATS = {"bf16": "BF16", "fp32": "F32"}
_TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


@dataclass(frozen=True)
class Exported:
    family: str
    num_bytes: int
    files: list[str]
    """Of weights."""


def export_model(
    opened: Opened,
    out: Path,
    *,
    family: str = "",
    dtype: Dtype = "stored",
    told: Progress = unheard,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write weights, config.json and tokenizer to the new folder `out`, which appears whole or not at all.

    Args:
        family: a name of `FAMILIES`; '' for the one the model came from, or the first that can hold it.

    Raises InputError where the family cannot hold the model, StorageError.
    """
    card = opened.card
    name = family or card.family
    if name and name not in FAMILIES:
        raise InputError(
            f"no family is called '{name}'", where="--family", hint=f"one of {', '.join(FAMILIES)}"
        )
    kind = FAMILIES[name] if name else choose_family(card.model)
    kept = card.kept if kind.name == card.family else {}
    if not kept and card.eos_id >= 0:
        kept = {"eos_token_id": card.eos_id}
    stored = max(opened.source.infos.values(), key=lambda info: info.num_bytes).dtype
    config = write_config(card.model, kind, _TORCH_NAMES[_FORMATS.get(dtype, stored)], kept)
    places = {
        part.name: (link, index)
        for link in links(card.model, kind.naming)
        for index, part in enumerate(link.parts)
    }
    infos = {
        theirs: Info(_FORMATS.get(dtype) or opened.source.infos[link.ours].dtype, link.parts[index].shape)
        for theirs, (link, index) in places.items()
    }
    with appears_whole(out) as folder:
        shards = write_shards(
            folder,
            infos,
            lambda theirs: to_theirs(*places[theirs], opened.source, infos[theirs].dtype),
            told,
            shard_bytes,
        )
        give_tokenizer(opened.folder, folder, card.model.max_seq_len)
        text = msgspec.json.format(msgspec.json.encode(config), indent=2)
        DiskStore().write_atomic(folder / CONFIG, text)
    return Exported(kind.name, sum(shard.size for shard in shards), [shard.name for shard in shards])
