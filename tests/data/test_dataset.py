import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from isthmus.data import prepare as preparation
from isthmus.data.dataset import Dataset, prepare
from isthmus.data.prepare import Progress, exclusive, prepare_source
from isthmus.data.sources import open_source
from isthmus.data.tokenizer import TextTokenizer, load_tokenizer
from isthmus.errors import CorruptError, InputError, NotFoundError, StorageError
from isthmus.spec.run import DataSpec, PhaseSpec, SourceSpec
from isthmus.units import Count


def _hash(dataset: Dataset, start: int, end: int) -> int:
    return hash(b"".join(tokens.tobytes() for tokens, _ in dataset.stream(start, end, rows=7)))


def test_every_token_is_a_target_once_per_epoch(data_spec: DataSpec):
    spec = msgspec.structs.replace(data_spec, sources=data_spec.sources[:1])
    dataset = prepare(spec, 400)
    size, seq_len = dataset.num_samples, spec.seq_len
    samples = dataset.sample_indices(0, size)[1]
    tokens = dataset.batch(np.arange(size))[0]
    in_place = tokens[np.argsort(samples)]
    targets = in_place[:, 1:].ravel()
    assert len(targets) == size * seq_len
    assert np.array_equal(in_place[1:, 0], in_place[:-1, -1])
    texts = dataset.decode(targets)
    assert "document 0 17\n" in texts
    again = dataset.batch(np.arange(size, 2 * size))[0]
    assert not np.array_equal(again, tokens)
    assert np.array_equal(np.sort(again, axis=None), np.sort(tokens, axis=None))


def test_documents_change_after_each_eos(dataset: Dataset):
    tokens, doc_ids = dataset.batch(np.arange(200))
    assert tokens.dtype == doc_ids.dtype == np.int32
    assert np.all(doc_ids[:, 0] == 0)
    assert np.array_equal(np.diff(doc_ids, axis=1), (tokens[:, :-1] == dataset.eos_id).astype(np.int32))
    assert doc_ids.max() > 0


def test_sources_follow_their_weights(dataset: Dataset):
    source, _ = dataset.sample_indices(0, 400)
    assert abs(int((source == 0).sum()) - 300) <= 1


def test_phases_leave_the_past_alone(data_spec: DataSpec, dataset: Dataset):
    phase = PhaseSpec(after=Count(100 * data_spec.seq_len), weights=[0.0, 1.0])
    changed = prepare(msgspec.structs.replace(data_spec, phases=[phase]), 400)
    assert _hash(changed, 0, 100) == _hash(dataset, 0, 100)
    assert np.all(changed.sample_indices(100, 300)[0] == 1)
    assert changed.fingerprint != dataset.fingerprint


def test_held_out_text_is_never_trained_on(dataset: Dataset):
    tokens, doc_ids = dataset.held_out(10_000)
    assert 0 < len(tokens) < 10_000
    assert tokens.shape == doc_ids.shape
    held = {line for line in dataset.decode(tokens.ravel()).splitlines() if line.startswith("document")}
    trained: set[str] = set()
    for s in range(2):
        stream = dataset.batch(np.flatnonzero(dataset.sample_indices(0, 3000)[0] == s))[0]
        trained |= set(dataset.decode(stream.ravel()).splitlines())
    assert held
    assert not held & trained
    assert np.array_equal(dataset.held_out(4)[0], dataset.held_out(4)[0])
    assert len(dataset.held_out(4)[0]) == 4


def test_no_held_out_text(data_spec: DataSpec, tmp_path: Path):
    assert prepare(msgspec.structs.replace(data_spec, held_out=0.0), 400).held_out(8)[0].shape == (0, 33)
    (tmp_path / "one.txt").write_text("a b c d e f g " * 200)
    spec = DataSpec(sources=[SourceSpec(path=str(tmp_path / "one.txt"))], seq_len=16, cache=str(tmp_path))
    with pytest.raises(InputError, match="held-out text is shorter"):
        prepare(spec, 300).held_out(8)


def test_empty_and_short_sources(tmp_path: Path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "short.txt").write_text("some words")
    spec = DataSpec(sources=[SourceSpec(path=str(tmp_path / "empty.txt"))], cache=str(tmp_path / "cache"))
    with pytest.raises(InputError, match="holds no text"):
        prepare(spec, 300)
    with pytest.raises(InputError, match="one sequence takes 257"):
        prepare(msgspec.structs.replace(spec, sources=[SourceSpec(path=str(tmp_path / "short.txt"))]), 300)
    with pytest.raises(NotFoundError, match="no tokenizer"):
        prepare(msgspec.structs.replace(spec, tokenizer=str(tmp_path / "tokenizer.json")), 300)


def test_content_names_the_data_and_the_cache_serves_it_twice(
    data_spec: DataSpec, dataset: Dataset, tmp_path: Path, write_corpus: Callable[..., Path]
):
    seen: list[Progress] = []
    assert prepare(data_spec, 400, seen.append).fingerprint == dataset.fingerprint
    assert not seen
    elsewhere = [
        SourceSpec(path=str(write_corpus(tmp_path, "a", 120)), weight=3),
        SourceSpec(path=str(write_corpus(tmp_path, "b", 60, salt=5))),
    ]
    spec = msgspec.structs.replace(data_spec, sources=elsewhere, cache=str(tmp_path / "cache"))
    other = prepare(spec, 400, seen.append)
    assert other.fingerprint == dataset.fingerprint
    assert {progress.stage for progress in seen} == {"tokenizer", "tokens"}
    assert prepare(msgspec.structs.replace(spec, seed=1), 400).fingerprint != dataset.fingerprint


def test_tokenizer_file_of_the_wrong_size(data_spec: DataSpec, dataset: Dataset):
    trained = (Path(data_spec.cache) / "tokenizers").glob("*.json")
    path = next(path for path in trained if load_tokenizer(path).hash == dataset.tokenizer.hash)
    spec = msgspec.structs.replace(data_spec, tokenizer=str(path))
    assert prepare(spec, 400).fingerprint == dataset.fingerprint
    with pytest.raises(InputError, match="room for 390"):
        prepare(spec, 390)


@pytest.fixture
def parts(corpus: Path, monkeypatch: pytest.MonkeyPatch):
    """A source, a tokenizer, and parts small enough that there are several."""
    monkeypatch.setattr(preparation, "PART_BYTES", 20_000)
    source = open_source(SourceSpec(path=str(corpus)))
    tokenizer = preparation.train_tokenizer(source.documents(), 300)
    return source, TextTokenizer(tokenizer, "here")


def test_preparation_goes_on_where_it_was_killed(parts, tmp_path: Path):
    source, tokenizer = parts

    def die(progress: Progress) -> None:
        if progress.done_bytes > 45_000:
            raise KeyboardInterrupt

    whole = prepare_source(source, tokenizer, 0.1, tmp_path / "a", lambda progress: None)
    assert len(whole) > 3
    with pytest.raises(KeyboardInterrupt):
        prepare_source(source, tokenizer, 0.1, tmp_path / "b", die)
    left = sorted((tmp_path / "b").rglob("*.tokens"))
    assert 0 < len(left) < len(whole)
    times = [path.stat().st_mtime_ns for path in left]
    resumed = prepare_source(source, tokenizer, 0.1, tmp_path / "b", lambda progress: None)
    assert [shard.info for shard in resumed] == [shard.info for shard in whole]
    assert [path.stat().st_mtime_ns for path in left] == times


def test_damaged_shard_is_named_and_made_anew_once_deleted(parts, tmp_path: Path):
    source, tokenizer = parts
    whole = prepare_source(source, tokenizer, 0.1, tmp_path, lambda progress: None)
    path = whole[1].path
    good = path.read_bytes()
    path.write_bytes(good[:300] + b"\0\1\2" + good[303:])
    with pytest.raises(CorruptError) as caught:
        prepare_source(source, tokenizer, 0.1, tmp_path, lambda progress: None)
    assert caught.value.where == f"{path} at byte 128"
    path.unlink()
    prepare_source(source, tokenizer, 0.1, tmp_path, lambda progress: None)
    assert path.read_bytes() == good


def test_source_that_shrank_while_it_was_prepared(parts, tmp_path: Path):
    source, tokenizer = parts
    shards = prepare_source(source, tokenizer, 0.1, tmp_path, lambda progress: None)
    (shards[0].path.parent / "manifest.json").unlink()
    with pytest.raises(InputError, match="changed while"):
        prepare_source(
            replace(source, documents=lambda: iter(["a"])), tokenizer, 0.1, tmp_path, lambda progress: None
        )


def test_several_processes_prepare_at_once(corpus: Path, tmp_path: Path):
    code = (
        "import sys; from isthmus.data.dataset import prepare;"
        "from isthmus.spec.run import DataSpec, SourceSpec;"
        "print(prepare(DataSpec(sources=[SourceSpec(path=sys.argv[1])], seq_len=16, cache=sys.argv[2]), 300)"
        ".fingerprint)"
    )
    command = [sys.executable, "-c", code, str(corpus), str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate(timeout=60)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(printed) == 1


def test_waiting_for_a_lock_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "LOCK_WAIT_S", -1.0)
    with exclusive(tmp_path / "lock"), pytest.raises(StorageError), exclusive(tmp_path / "lock"):
        pass


def test_lock_that_cannot_be_made(tmp_path: Path):
    with pytest.raises(StorageError, match="lock file") as caught, exclusive(tmp_path / "missing" / "lock"):
        pass
    assert "data.cache" in (caught.value.hint or "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_cache(corpus: Path, tmp_path: Path):
    tmp_path.chmod(0o500)
    spec = DataSpec(sources=[SourceSpec(path=str(corpus))], seq_len=16, cache=str(tmp_path / "cache"))
    with pytest.raises(StorageError):
        prepare(spec, 300)
