"""A Hugging Face model as a model folder of ours, with the memory of one tensor."""

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from isthmus.errors import CorruptError, InputError, NotFoundError
from isthmus.spec.model import ModelSpec
from isthmus.weights.folder import Card, appears_whole, write_card
from isthmus.weights.hf.config import CONFIG, find_family, kept_fields, read_json, read_spec
from isthmus.weights.hf.links import EMBEDDING, HEAD, Link, links
from isthmus.weights.hf.move import to_ours
from isthmus.weights.hf.tokenizer import take_tokenizer
from isthmus.weights.shards import INDEX, SHARD_BYTES, WEIGHTS, Progress, Shard, unheard, write_shards
from isthmus.weights.source import FileSource, Info, Source, chunks

_SHOWN = 3
_BUFFER = ".rotary_emb.inv_freq"
"""Tensors of old checkpoints that follow from config.json."""


@dataclass(frozen=True)
class Imported:
    card: Card
    num_bytes: int
    """Of all tensors."""
    notes: list[str]


def import_model(path: Path, out: Path, told: Progress = unheard, shard_bytes: int = SHARD_BYTES) -> Imported:
    """Write the model in the folder `path` to the new folder `out`, number formats as they are.

    Raises InputError for what is not understood (a field, a tensor, a number format), CorruptError for
    damaged files, NotFoundError for missing ones, StorageError. `out` appears whole or not at all.
    """
    where, config = str(path / CONFIG), read_json(path / CONFIG)
    family = find_family(config, where)
    spec = read_spec(config, family, where)
    source = FileSource(find_files(path))
    spec, notes = _untie(spec, source)
    plan = list(links(spec, family.naming, source.infos))
    _check_tensors(plan, spec, source, path)
    with appears_whole(out) as folder:
        tokenizer = take_tokenizer(path, folder, config)
        if tokenizer is None:
            notes.append(
                "there is no tokenizer.json; the weights have been taken alone. transformers can write one: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        elif tokenizer.vocab_size > spec.vocab_size:
            notes.append(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the embedding {spec.vocab_size} rows: "
                "it cannot be used with this model as it is"
            )
        card = Card(
            model=spec,
            tokens=0,
            version=0,
            eos_id=tokenizer.eos_id if tokenizer else -1,
            shards=_write(folder, plan, source, told, shard_bytes),
            family=family.name,
            kept=kept_fields(config),
        )
        write_card(folder, card)
    return Imported(card, sum(shard.size for shard in card.shards), notes)


def _write(
    folder: Path, plan: list[Link], source: FileSource, told: Progress, shard_bytes: int
) -> list[Shard]:
    infos = {link.ours: Info(source.infos[link.parts[0].name].dtype, link.shape) for link in plan}
    by_name = {link.ours: link for link in plan}
    return write_shards(
        folder, infos, lambda name: to_ours(by_name[name], source, infos[name].dtype), told, shard_bytes
    )


def find_files(path: Path) -> list[Path]:
    """The safetensors files of a Hugging Face model. Raises NotFoundError, InputError, CorruptError."""
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if (path / INDEX).is_file():
        places = read_json(path / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise CorruptError("has no weight_map", where=str(path / INDEX), hint="take another copy")
        return [path / name for name in sorted(set(places.values()))]
    if any(path.glob("pytorch_model*.bin")):
        raise InputError(
            "the weights are pickled (pytorch_model.bin); that format can run programs and is not read",
            where=str(path),
            hint="load them with transformers and save_pretrained them, which writes safetensors",
        )
    raise NotFoundError(
        f"there is neither {WEIGHTS} nor {INDEX}", where=str(path), hint="copy the whole model"
    )


def _untie(spec: ModelSpec, source: FileSource) -> tuple[ModelSpec, list[str]]:
    """A head that is there although it is said to be tied is its own if it differs, as in transformers."""
    if not spec.tied_head or HEAD not in source.infos or EMBEDDING not in source.infos:
        return spec, []
    if _equal(source, HEAD, EMBEDDING):
        return spec, []
    return replace(spec, tied_head=False), [
        "tie_word_embeddings is true, but lm_head.weight differs from the embedding: it is taken as untied"
    ]


def _equal(source: Source, first: str, second: str) -> bool:
    if source.infos[first] != source.infos[second]:
        return False
    count = source.infos[first].matrix[0]
    pairs = zip(chunks(source, first, 0, count), chunks(source, second, 0, count), strict=True)
    return all((one == other).all() for (_, one), (_, other) in pairs)


def _check_tensors(plan: list[Link], spec: ModelSpec, source: FileSource, path: Path) -> None:
    """Raises InputError where names or shapes are not those that config.json calls for."""
    wanted = {part.name: part.shape for link in plan for part in link.parts}
    missing = [name for name in wanted if name not in source.infos]
    if missing:
        hint = "copy the whole model"
        if missing == [HEAD]:
            hint = "if the head is the embedding, config.json should say tie_word_embeddings: true"
        raise InputError(f"{_named(missing)} missing", where=str(path), hint=hint)
    extra = [name for name in source.infos if name not in wanted and not name.endswith(_BUFFER)]
    if spec.tied_head and HEAD in extra:
        extra.remove(HEAD)
    if extra:
        raise InputError(
            f"{_named(extra)} not part of such a model",
            where=str(source.file_of(extra[0])),
            hint="does config.json belong to these weights?",
        )
    for name, shape in wanted.items():
        found = source.infos[name].shape
        if found != shape:
            raise InputError(
                f"'{name}' is {list(found)}; config.json makes it {list(shape)}",
                where=str(source.file_of(name)),
                hint="does config.json belong to these weights?",
            )


def _named(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"
