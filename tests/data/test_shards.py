from pathlib import Path

import numpy as np
import pytest

from isthmus.data.shards import BLOCK_BYTES, Shard, open_shard, verify_shard, write_shard
from isthmus.data.stream import TokenStream
from isthmus.errors import CorruptError, NotFoundError
from isthmus.journal.store import DiskStore


def _documents(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 60_000, n).astype(np.uint32) for n in lengths]


def _shard(path: Path, train: list[np.ndarray], held: list[np.ndarray], dtype: type = np.uint16) -> Shard:
    write_shard(DiskStore(), path, (train, held), dtype, (len(train) + len(held), 99))
    return open_shard(path)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("held_lengths", [[], [4, 1]])
def test_written_is_read(tmp_path: Path, dtype: type, held_lengths: list[int]):
    train, held = _documents([5, 1, 7]), _documents(held_lengths, seed=1)
    shard = _shard(tmp_path / "s", train, held, dtype)
    verify_shard(shard)
    assert shard.tokens.dtype == dtype
    assert np.array_equal(shard.tokens, np.concatenate([*train, *held]))
    assert shard.starts.tolist() == np.cumsum([0, 5, 1, 7, *held_lengths])[:-1].tolist()
    assert (shard.info.train_tokens, shard.info.held_tokens) == (13, sum(held_lengths))
    assert (shard.info.source_docs, shard.info.text_bytes) == (3 + len(held), 99)
    assert not list(tmp_path.glob(".*"))


def test_every_flipped_byte_is_found(tmp_path: Path):
    path = tmp_path / "s"
    _shard(path, _documents([40]), _documents([9]))
    good = path.read_bytes()
    fields = 88
    for offset in [*range(0, fields, 5), *range(128, len(good), 3)]:
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 64]) + good[offset + 1 :])
        with pytest.raises(CorruptError) as caught:
            verify_shard(open_shard(path))
        assert str(path) in (caught.value.where or "")
        assert "isthmus data prepare" in (caught.value.hint or "")


@pytest.mark.parametrize("size", [0, 50, 128, 200])
def test_truncated(tmp_path: Path, size: int):
    path = tmp_path / "s"
    _shard(path, _documents([100]), [])
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptError, match=r"ends within its header|bytes instead of"):
        open_shard(path)


def test_first_bad_block_is_named(tmp_path: Path):
    path = tmp_path / "s"
    _shard(path, _documents([BLOCK_BYTES]), [])
    with path.open("r+b") as file:
        file.seek(128 + BLOCK_BYTES + 77)
        file.write(b"\xff\xfe\xfd")
    shard = open_shard(path)
    with pytest.raises(CorruptError, match="1 of 3 blocks") as caught:
        verify_shard(shard)
    assert caught.value.where == f"{path} at byte {128 + BLOCK_BYTES}"


def test_missing(tmp_path: Path):
    with pytest.raises(NotFoundError):
        open_shard(tmp_path / "s")


@pytest.mark.parametrize("held_out", [False, True])
def test_windows_over_several_shards(tmp_path: Path, held_out: bool):
    """Against the plain definition: concatenate everything, number the documents, cut windows."""
    lengths = [[3, 9, 1, 1, 14], [2], [20, 5, 5]]
    documents = [_documents(some, seed=i) for i, some in enumerate(lengths)]
    rest = _documents([6, 2], seed=9)
    shards = [
        _shard(tmp_path / str(i), rest if held_out else docs, docs if held_out else rest)
        for i, docs in enumerate(documents)
    ]
    flat = [document for docs in documents for document in docs]
    tokens = np.concatenate(flat)
    numbers = np.repeat(np.arange(len(flat)), [len(document) for document in flat])
    stream = TokenStream(shards, held_out=held_out)
    assert stream.num_tokens == len(tokens)
    for seq_len in (1, 4, 7, 30):
        count = stream.num_windows(seq_len)
        assert count == (len(tokens) - 1) // seq_len
        begins = np.arange(count)[::-1] * seq_len
        out = np.empty((count, seq_len + 1), np.int32)
        doc_ids = np.zeros((count, seq_len + 1), np.int32)
        stream.gather(begins, np.arange(count), out, doc_ids)
        for row, begin in enumerate(begins):
            window = slice(begin, begin + seq_len + 1)
            assert np.array_equal(out[row], tokens[window])
            assert np.array_equal(doc_ids[row], numbers[window] - numbers[begin])
