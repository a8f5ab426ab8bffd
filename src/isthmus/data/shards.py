"""Token shards: one file holds the tokens and document starts of one part of a source, memory-mapped to read.

    header (128 bytes) | tokens u16 or u32, padded to 8 bytes | document starts u64 | xxh3 of each 1 MiB block

Documents kept for training come first, held-out ones after them; each ends with the eos token. The header
carries its own checksum and that of the block table; blocks are checked by `verify_shard`.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from isthmus.errors import CorruptError, NotFoundError
from isthmus.journal.store import Store

BLOCK_BYTES = 1 << 20
_MAGIC = b"isthmtok"
_VERSION = 1
_FIELDS = struct.Struct("<8sII8QQ")
_HEADER_BYTES = 128
_REMEDY = "delete the file and run `isthmus data prepare` again: it writes this part anew, the others stay"


class ShardInfo(msgspec.Struct, frozen=True):
    """What the header says. Counts of tokens include the eos that ends each document."""

    train_tokens: int
    held_tokens: int
    train_docs: int
    held_docs: int
    source_docs: int
    """Documents read for this part, empty ones too: where the next part begins."""
    text_bytes: int
    token_bytes: int
    table_hash: int
    """xxh3 over the block checksums: names the content."""


@dataclass(frozen=True)
class Shard:
    """An open shard: `tokens` u16|u32[train_tokens + held_tokens], `starts` u64[docs], memory-mapped."""

    path: Path
    info: ShardInfo
    tokens: npt.NDArray[np.unsignedinteger]
    starts: npt.NDArray[np.uint64]
    blocks: npt.NDArray[np.uint64]
    payload: npt.NDArray[np.uint8]


def write_shard(
    store: Store,
    path: Path,
    documents: tuple[list[npt.NDArray[np.uint32]], list[npt.NDArray[np.uint32]]],
    dtype: npt.DTypeLike,
    read: tuple[int, int],
) -> None:
    """Writes (train, held-out) documents, at once or not at all. `read`: (documents, text bytes)."""
    train, held = documents
    lengths = np.array([len(document) for document in (*train, *held)], np.uint64)
    starts = np.cumsum(lengths) - lengths
    tokens = np.concatenate([*train, *held, np.zeros(0, np.uint32)]).astype(dtype)
    train_tokens = int(lengths[: len(train)].sum())
    padding = np.zeros(-tokens.nbytes % 8, np.uint8)
    payload = np.concatenate([tokens.view(np.uint8), padding, starts.view(np.uint8)])
    blocks = _checksums(payload)
    counts = (
        train_tokens, len(tokens) - train_tokens, len(train), len(held),
        read[0], read[1], tokens.dtype.itemsize, xxhash.xxh3_64_intdigest(blocks.tobytes()),
    )  # fmt: skip
    head = _FIELDS.pack(_MAGIC, _VERSION, BLOCK_BYTES, *counts, 0)[:-8]
    head += struct.pack("<Q", xxhash.xxh3_64_intdigest(head))
    store.write_atomic(path, head.ljust(_HEADER_BYTES, b"\0"), payload.data, blocks.tobytes())


def _checksums(payload: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    cuts = range(0, len(payload), BLOCK_BYTES)
    return np.array([xxhash.xxh3_64_intdigest(payload[i : i + BLOCK_BYTES].data) for i in cuts], np.uint64)


def open_shard(path: Path) -> Shard:
    """Maps a shard after checking its header, size and block table; the blocks themselves are not read.

    Raises CorruptError naming file and offset, NotFoundError where there is no file.
    """
    try:
        size = path.stat().st_size
        raw = np.memmap(path, np.uint8, mode="r") if size else np.zeros(0, np.uint8)
    except FileNotFoundError as e:
        raise NotFoundError(
            "there is no such shard", where=str(path), hint="run `isthmus data prepare`"
        ) from e
    info = _read_header(raw[:_HEADER_BYTES].tobytes(), path)
    num_tokens, num_docs = info.train_tokens + info.held_tokens, info.train_docs + info.held_docs
    token_end = _HEADER_BYTES + num_tokens * info.token_bytes
    docs_at = token_end + -token_end % 8
    table_at = docs_at + num_docs * 8
    num_blocks = -(-(table_at - _HEADER_BYTES) // BLOCK_BYTES)
    if size != table_at + num_blocks * 8:
        raise _corrupt(path, min(size, table_at), f"has {size} bytes instead of {table_at + num_blocks * 8}")
    plain = np.asarray(raw)
    blocks = plain[table_at:].view(np.uint64)
    if xxhash.xxh3_64_intdigest(blocks.tobytes()) != info.table_hash:
        raise _corrupt(path, table_at, "its table of checksums does not match the header")
    return Shard(
        path=path,
        info=info,
        tokens=plain[_HEADER_BYTES:token_end].view(np.uint16 if info.token_bytes == 2 else np.uint32),
        starts=plain[docs_at:table_at].view(np.uint64),
        blocks=blocks,
        payload=plain[_HEADER_BYTES:table_at],
    )


def verify_shard(shard: Shard) -> None:
    """Reads the whole shard against its checksums; CorruptError names the first bad block's offset."""
    bad = np.flatnonzero(_checksums(shard.payload) != shard.blocks)
    if bad.size:
        offset = _HEADER_BYTES + int(bad[0]) * BLOCK_BYTES
        raise _corrupt(shard.path, offset, f"{bad.size} of {len(shard.blocks)} blocks have a wrong checksum")


def _read_header(head: bytes, path: Path) -> ShardInfo:
    if len(head) < _HEADER_BYTES:
        raise _corrupt(path, len(head), "ends within its header")
    magic, version, block_bytes, *counts, checksum = _FIELDS.unpack_from(head)
    if magic != _MAGIC:
        raise _corrupt(path, 0, "is no token shard")
    if checksum != xxhash.xxh3_64_intdigest(head[: _FIELDS.size - 8]):
        raise _corrupt(path, 0, "its header does not match its checksum")
    if (version, block_bytes) != (_VERSION, BLOCK_BYTES):
        raise _corrupt(path, 8, f"is of format {version}; this isthmus reads {_VERSION}")
    return ShardInfo(*counts)


def _corrupt(path: Path, offset: int, message: str) -> CorruptError:
    return CorruptError(message, where=f"{path} at byte {offset}", hint=_REMEDY)
