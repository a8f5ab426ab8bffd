"""Named tensors packed into fragments of nearly equal size, each one flat fp32 vector that travels by itself.

Balanced bin-packing after Decoupled DiLoCo (arXiv 2604.21428): largest first, each into the least filled
fragment. A tensor larger than a fragment is cut. The same shapes give the same layout everywhere; `hash`
compares two.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from isthmus.errors import InputError

DENSE = -1
"""Group of tensors that are weighted by all tokens of a site."""
_VALUES_PER_FRAGMENT = 1 << 24
_FEWEST, _MOST = 4, 64


class Tensor(msgspec.Struct, frozen=True):
    name: str
    shape: tuple[int, ...]
    group: int = DENSE
    """Expert group, whose tokens weight this tensor in a merge."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Part(msgspec.Struct, frozen=True):
    """Values `start` to `start + length` of tensor number `tensor`, counted in row-major order."""

    tensor: int
    start: int
    length: int


class Piece(NamedTuple):
    """A part and its place: values `offset` to `offset + length` of the whole flat vector."""

    tensor: str
    start: int
    offset: int
    length: int


class Segments(NamedTuple):
    """Stretches of one fragment whose values share a group: `bounds` i64[num, 2], `groups` i64[num]."""

    bounds: NDArray[np.int64]
    groups: NDArray[np.int64]


class Layout(msgspec.Struct, frozen=True):
    """The flat vector is the fragments one after the other, a fragment its parts in this order."""

    tensors: tuple[Tensor, ...]
    fragments: tuple[tuple[Part, ...], ...]

    @property
    def size(self) -> int:
        """Values in all."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def num_fragments(self) -> int:
        return len(self.fragments)

    @property
    def num_groups(self) -> int:
        return max((tensor.group for tensor in self.tensors), default=DENSE) + 1

    @property
    def fragment_sizes(self) -> tuple[int, ...]:
        return tuple(sum(part.length for part in parts) for parts in self.fragments)

    @property
    def hash(self) -> str:
        return xxhash.xxh3_128_hexdigest(msgspec.msgpack.encode(self))

    def pieces(self) -> list[Piece]:
        """In the order of the flat vector, without gaps."""
        pieces: list[Piece] = []
        offset = 0
        for part in (part for parts in self.fragments for part in parts):
            pieces.append(Piece(self.tensors[part.tensor].name, part.start, offset, part.length))
            offset += part.length
        return pieces

    def views(self, flat: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The fragments of a flat vector, without copying."""
        ends = np.cumsum(self.fragment_sizes)
        return [flat[end - size : end] for end, size in zip(ends, self.fragment_sizes, strict=True)]

    def segments(self, fragment: int) -> Segments:
        """Neighbours of the same group are one segment."""
        bounds: list[list[int]] = []
        groups: list[int] = []
        offset = 0
        for part in self.fragments[fragment]:
            group = self.tensors[part.tensor].group
            if groups and groups[-1] == group:
                bounds[-1][1] += part.length
            else:
                bounds.append([offset, offset + part.length])
                groups.append(group)
            offset += part.length
        return Segments(np.array(bounds, np.int64).reshape(-1, 2), np.array(groups, np.int64))

    def pack(self, tensors: Mapping[str, NDArray[np.float32]], flat: NDArray[np.float32]) -> None:
        """Copy tensors, by name and of any float type, into a flat f32[size]."""
        for name, start, offset, length in self.pieces():
            flat[offset : offset + length] = tensors[name].reshape(-1)[start : start + length]

    def unpack(self, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Copies of the tensors in a flat vector, in their shapes."""
        tensors = {tensor.name: np.empty(tensor.size, np.float32) for tensor in self.tensors}
        for name, start, offset, length in self.pieces():
            tensors[name][start : start + length] = flat[offset : offset + length]
        return {tensor.name: tensors[tensor.name].reshape(tensor.shape) for tensor in self.tensors}


def choose_num_fragments(size: int) -> int:
    """Enough to keep several in flight while others are encoded and merged, few enough to stay large."""
    return min(_MOST, max(_FEWEST, -(-size // _VALUES_PER_FRAGMENT)))


def build_layout(
    named_shapes: Sequence[tuple[str, tuple[int, ...]]], groups: Mapping[str, int], num_fragments: int = 0
) -> Layout:
    """Pack tensors into `num_fragments` (0: chosen from the size; never more than there are values).

    Args:
        groups: tensor name -> expert group; tensors not named are dense.

    Raises InputError for no tensors, a name that comes twice, or a group of an unknown tensor.
    """
    names = [name for name, _ in named_shapes]
    _check_names(names, groups)
    tensors = tuple(Tensor(name, tuple(shape), groups.get(name, DENSE)) for name, shape in named_shapes)
    size = sum(tensor.size for tensor in tensors)
    if size == 0:
        raise InputError("the model has no parameters", hint="hand over a model with trainable tensors")
    count = min(num_fragments or choose_num_fragments(size), size)
    parts = _cut(tensors, -(-size // count))
    if len(parts) < count:
        parts = _cut(tensors, size // count)
    loads = [(0, number) for number in range(count)]
    packed: list[list[Part]] = [[] for _ in range(count)]
    for part in sorted(parts, key=lambda part: (-part.length, tensors[part.tensor].name, part.start)):
        load, number = heapq.heappop(loads)
        packed[number].append(part)
        heapq.heappush(loads, (load + part.length, number))
    order = [
        tuple(sorted(parts, key=lambda part: (tensors[part.tensor].group, part.tensor, part.start)))
        for parts in packed
        if parts
    ]
    return Layout(tensors, tuple(order))


def _cut(tensors: Sequence[Tensor], largest: int) -> list[Part]:
    """Parts of `largest` values, and the rest of each tensor, which fills the gaps."""
    return [
        Part(index, start, min(largest, tensor.size - start))
        for index, tensor in enumerate(tensors)
        for start in range(0, tensor.size, largest)
    ]


def _check_names(names: list[str], groups: Mapping[str, int]) -> None:
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise InputError(f"two tensors are called '{min(twice)}'", hint="name every tensor once")
    unknown = groups.keys() - set(names)
    if unknown:
        raise InputError(
            f"an expert group is given for '{min(unknown)}', which is no tensor of the model",
            hint="use the names of model.named_parameters()",
        )
