"""The safetensors format on buffers: nothing is copied on the way to the disk, nothing on the way back.

A file is `<u64 length><JSON header><tensors>`; the header gives each tensor's type, shape and place.
Files open with the `safetensors` library, and those it writes open here.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from isthmus.errors import CorruptError

Arrays = Mapping[str, np.ndarray]

_LENGTH = struct.Struct("<Q")
_ALIGN = 64
_TYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def pack(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> list[memoryview]:
    """Buffers that one after the other are the file: the header, then each array's own memory.

    Arrays must be C-contiguous and of a type the format knows; ours are.
    """
    entries = {name: (_NAMES[array.dtype], array.shape, array.nbytes) for name, array in arrays.items()}
    bodies = [array.reshape(-1).view(np.uint8).data for array in arrays.values() if array.nbytes]
    return [memoryview(header(entries, metadata)), *bodies]


def header(
    entries: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The start of a file in which these tensors (type, shape, bytes) follow one after the other."""
    document: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape, num_bytes) in entries.items():
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + num_bytes]}
        offset += num_bytes
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _LENGTH.size) % _ALIGN)
    return _LENGTH.pack(len(text)) + text


def unpack(file: memoryview, where: str) -> dict[str, np.ndarray]:
    """The tensors by name, as views of `file`. Raises CorruptError, naming `where`, for any other file."""
    try:
        (length,) = _LENGTH.unpack_from(file)
        entries = json.loads(bytes(file[_LENGTH.size : _LENGTH.size + length]))
        entries.pop("__metadata__", None)
        body = file[_LENGTH.size + length :]
        return {name: _view(body, entry) for name, entry in entries.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(
            f"not a sound safetensors file: {error}",
            where=where,
            hint="take another copy, or export it again",
        ) from error


def _view(body: memoryview, entry: dict[str, Any]) -> np.ndarray:
    start, end = entry["data_offsets"]
    return np.frombuffer(body[start:end], _TYPES[entry["dtype"]]).reshape(entry["shape"])
