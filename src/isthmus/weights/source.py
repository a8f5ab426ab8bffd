"""Where tensors are read from, some rows at a time: safetensors files, or arrays in memory.

A tensor is seen as a matrix here, all its axes but the last being rows; a vector is one row.
"""

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from isthmus.errors import CorruptError, InputError, NotFoundError, StorageError
from isthmus.weights.formats import RAW, convert

CHUNK_BYTES = 8 << 20
"""How much of a tensor is in memory at once, where it need not be whole."""
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""


@dataclass(frozen=True)
class Info:
    dtype: str
    """A key of `RAW`."""
    shape: tuple[int, ...]

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns)."""
        return math.prod(self.shape[:-1]), self.shape[-1]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * RAW[self.dtype].itemsize


class Source(Protocol):
    @property
    def infos(self) -> Mapping[str, Info]: ...

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of a tensor in its own format, [stop - start, columns]. Raises CorruptError, StorageError."""
        ...


class ArraySource:
    """fp32 arrays that are in memory anyway."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = arrays
        self.infos = {name: Info("F32", array.shape) for name, array in arrays.items()}

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._arrays[name].reshape(self.infos[name].matrix)[start:stop]


@dataclass(frozen=True)
class _Place:
    file: Path
    offset: int


class FileSource:
    """safetensors files, opened for each read: nothing stays open or mapped."""

    def __init__(self, files: Sequence[Path]):
        """Reads the headers alone. Raises CorruptError, NotFoundError, and InputError for number formats
        that are not ours."""
        self.infos: dict[str, Info] = {}
        self._places: dict[str, _Place] = {}
        for file in files:
            for name, info, offset in read_header(file):
                if name in self.infos:
                    raise _damaged(file, f"'{name}' is also in {self._places[name].file.name}")
                self.infos[name], self._places[name] = info, _Place(file, offset)

    def file_of(self, name: str) -> Path:
        return self._places[name].file

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        info, place = self.infos[name], self._places[name]
        columns = info.matrix[1]
        out = np.empty((stop - start, columns), RAW[info.dtype])
        offset = place.offset + start * columns * out.itemsize
        _read_into(place.file, offset, out.reshape(-1).view(np.uint8).data if out.size else memoryview(b""))
        return out


class Floats(Mapping[str, np.ndarray]):
    """The tensors of a source as fp32 arrays in their own shapes, each read when it is asked for."""

    def __init__(self, source: Source):
        self._source = source

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._source.infos[name]
        raw = self._source.rows(name, 0, info.matrix[0])
        return convert(raw, info.dtype, "F32").reshape(info.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.infos)

    def __len__(self) -> int:
        return len(self._source.infos)


def chunks(source: Source, name: str, start: int, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """(place of its first row, counted from `start`; the rows), at most CHUNK_BYTES or one row at a time."""
    info = source.infos[name]
    step = max(1, CHUNK_BYTES // max(1, info.matrix[1] * RAW[info.dtype].itemsize))
    for first in range(0, rows, step):
        yield first, source.rows(name, start + first, start + min(rows, first + step))


def read_header(file: Path) -> Iterator[tuple[str, Info, int]]:
    """(name, info, byte offset in the file) of each tensor; the file's length is checked against them."""
    size = _size(file)
    first = bytearray(8)
    if size < len(first):
        raise _damaged(file, f"it has {size} bytes")
    _read_into(file, 0, memoryview(first))
    (length,) = struct.unpack("<Q", first)
    if length > min(MAX_HEADER_BYTES, size - len(first)):
        raise _damaged(file, "its header does not fit into it")
    text = bytearray(length)
    _read_into(file, len(first), memoryview(text))
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        found = [(name, *_entry(entry)) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, f"its header is unreadable ({error})") from error
    end = len(first) + length
    for name, info, (start, stop) in found:
        if info.dtype not in RAW:
            raise InputError(
                f"'{name}' is stored as {info.dtype}",
                where=str(file),
                hint=f"only {', '.join(RAW)} are read; store the weights in one of them",
            )
        if stop - start != info.num_bytes or not 0 <= start <= stop <= size - end:
            raise _damaged(file, f"the bytes of '{name}' are not all there")
        yield name, info, end + start


def _entry(entry: dict[str, Any]) -> tuple[Info, tuple[int, int]]:
    start, stop = entry["data_offsets"]
    shape = tuple(int(axis) for axis in entry["shape"]) or (1,)
    return Info(str(entry["dtype"]), shape), (int(start), int(stop))


def _damaged(file: Path, what: str) -> CorruptError:
    return CorruptError(
        f"not a sound safetensors file: {what}", where=str(file), hint="take another copy of the file"
    )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError as error:
        raise NotFoundError("there is no such file", where=str(file), hint="copy the whole folder") from error
    except OSError as error:
        raise StorageError(f"cannot read: {error.strerror}", where=str(file)) from error


def _read_into(file: Path, offset: int, view: memoryview) -> None:
    try:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            filled = 0
            while filled < view.nbytes:
                got = os.preadv(descriptor, [view[filled:]], offset + filled)
                if got == 0:
                    raise _damaged(file, "it ends early")
                filled += got
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"cannot read: {error.strerror}", where=str(file)) from error
