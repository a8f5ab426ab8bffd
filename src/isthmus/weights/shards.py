"""safetensors files written tensor after tensor: the headers follow from the shapes alone.

One file is called model.safetensors; several are numbered, beside an index, as Hugging Face does.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from isthmus.journal.store import Data, DiskStore
from isthmus.weights.source import Info
from isthmus.weights.tensorfile import header

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
"""At most, where no single tensor is larger."""

Body = Callable[[str], Iterable[np.ndarray]]
"""The parts of a tensor, in the order and the format in which they are stored."""
Progress = Callable[[int, int], None]
"""Is told of the bytes that are done, and of those there are."""


def unheard(done: int, total: int) -> None:
    """Progress that nobody follows."""


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    size: int
    xxh3: str
    """XXH3-128 of the file, hexadecimal."""


def write_shards(
    folder: Path,
    infos: Mapping[str, Info],
    body: Body,
    told: Progress = unheard,
    shard_bytes: int = SHARD_BYTES,
) -> list[Shard]:
    """Write all tensors of `infos`, in its order, each file durably. Raises StorageError."""
    groups = _group(infos, shard_bytes)
    total, done = sum(info.num_bytes for info in infos.values()), 0

    def counted(name: str) -> Iterator[np.ndarray]:
        nonlocal done
        for part in body(name):
            yield part
            done += part.nbytes
            told(done, total)

    names = [_name(index, len(groups)) for index in range(len(groups))]
    shards = [_write(folder / name, group, counted) for name, group in zip(names, groups, strict=True)]
    if len(groups) > 1:
        places = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        DiskStore().write_atomic(folder / INDEX, json.dumps(index, indent=2).encode())
    return shards


def _group(infos: Mapping[str, Info], shard_bytes: int) -> list[dict[str, Info]]:
    groups: list[dict[str, Info]] = [{}]
    filled = 0
    for name, info in infos.items():
        if groups[-1] and filled + info.num_bytes > shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = info
        filled += info.num_bytes
    return groups


def _name(index: int, count: int) -> str:
    return WEIGHTS if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def _write(path: Path, infos: dict[str, Info], body: Body) -> Shard:
    digest, size = xxhash.xxh3_128(), 0

    def hashed(buffers: Iterable[Data]) -> Iterator[Data]:
        nonlocal size
        for buffer in buffers:
            digest.update(buffer)
            size += len(buffer)
            yield buffer

    DiskStore().write_stream(path, hashed(_buffers(infos, body)))
    return Shard(name=path.name, size=size, xxh3=digest.hexdigest())


def _buffers(infos: dict[str, Info], body: Body) -> Iterator[Data]:
    entries = {name: (info.dtype, info.shape, info.num_bytes) for name, info in infos.items()}
    yield header(entries, {"format": "pt"})
    for name, info in infos.items():
        written = 0
        for part in body(name):
            if part.nbytes:
                yield np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            written += part.nbytes
        assert written == info.num_bytes, f"{name} has {written} bytes, not {info.num_bytes}"
