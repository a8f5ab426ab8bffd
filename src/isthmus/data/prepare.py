"""Text -> token shards, once per source and tokenizer, cached. Killed at any instant, it goes on.

A source is cut into parts of `PART_BYTES` of text. Each becomes one shard, written at once or not at all: a
second run skips what is there. Several processes may prepare at once: one works, the others wait.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from isthmus.data.shards import Shard, open_shard, verify_shard, write_shard
from isthmus.data.sources import Source
from isthmus.data.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer
from isthmus.errors import InputError, NotFoundError, StorageError
from isthmus.journal.store import DiskStore

PART_BYTES = 64 * 2**20
BATCH_BYTES = 4 * 2**20
"""Text handed to the tokenizer at a time; its results take some 30 times as much memory."""
SAMPLE_BYTES = 8_000_000
"""Text from which a tokenizer is trained; more changes little and takes longer."""
SAMPLE_WINDOW_BYTES = 64 * 2**20
SAMPLE_DOCUMENT_CHARS = 64 * 1024
VERIFY_BYTES = 2**30
"""Sources up to this size are checked in full whenever they are opened: some 0.1 s."""
LOCK_WAIT_S = 24 * 3600.0


class Progress(msgspec.Struct, frozen=True):
    stage: str
    """'tokenizer' or 'tokens'."""
    source: str
    done_bytes: int
    total_bytes: int
    """0 where it is not known before reading."""


Report = Callable[[Progress], None]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Written when a source is complete."""

    source: str
    tokenizer: str
    held_out: float
    parts: int
    documents: int
    text_bytes: int


def tokenizer_path(sources: list[Source], vocab_size: int, cache: Path) -> Path:
    """Where the tokenizer trained on these sources is kept."""
    digest = xxhash.xxh3_128(b"bpe-1")
    for fact in (str(vocab_size), str(SAMPLE_BYTES), *(source.key for source in sources)):
        digest.update(fact.encode() + b"\0")
    return cache / "tokenizers" / f"{digest.hexdigest()}.json"


def shard_folder(source: Source, tokenizer: TextTokenizer, held_out: float, cache: Path) -> Path:
    """Where the shards of a source are kept."""
    digest = xxhash.xxh3_128(f"shards-1\0{source.key}\0{tokenizer.hash}\0{held_out!r}".encode())
    return cache / "shards" / digest.hexdigest()


def cached_tokenizer(sources: list[Source], vocab_size: int, cache: Path, report: Report) -> TextTokenizer:
    """Trains a tokenizer on a sample of all sources, or takes the one trained before."""
    path = tokenizer_path(sources, vocab_size, cache)
    store = DiskStore()
    if not path.exists():
        store.make_folder(path.parent)
        with exclusive(path.parent / f".{path.stem}.lock"):
            if not path.exists():
                texts = [text for source in sources for text in _sample(source, len(sources), report)]
                store.write_atomic(path, train_tokenizer(texts, vocab_size))
    return load_tokenizer(path)


def _sample(source: Source, num_sources: int, report: Report) -> list[str]:
    """Documents of smallest hash from the beginning of the source: the same ones on every machine."""
    window: list[tuple[int, str]] = []
    done = 0
    for text in source.documents():
        raw = text.encode()
        window.append((xxhash.xxh3_64_intdigest(raw), text[:SAMPLE_DOCUMENT_CHARS]))
        done += len(raw)
        if done >= SAMPLE_WINDOW_BYTES:
            break
    report(Progress("tokenizer", source.name, done, source.size_bytes))
    window.sort()
    chosen: list[str] = []
    budget = SAMPLE_BYTES // num_sources
    for _, text in window:
        if budget <= 0:
            break
        chosen.append(text)
        budget -= len(text)
    return chosen


def prepare_source(
    source: Source, tokenizer: TextTokenizer, held_out: float, cache: Path, report: Report
) -> list[Shard]:
    """The shards of a source, made where they are missing.

    Raises CorruptError for a damaged shard, InputError for bad or empty text, StorageError from the disk.
    """
    folder = shard_folder(source, tokenizer, held_out, cache)
    store = DiskStore()
    if (found := open_source_shards(folder)) is not None:
        return found
    store.make_folder(folder)
    with exclusive(folder / ".lock"):
        if (found := open_source_shards(folder)) is not None:
            return found
        parts = _write_parts(source, tokenizer, held_out, folder, report)
        manifest = Manifest(
            source=source.name,
            tokenizer=tokenizer.hash,
            held_out=held_out,
            parts=len(parts),
            documents=sum(part.info.source_docs for part in parts),
            text_bytes=sum(part.info.text_bytes for part in parts),
        )
        store.write_atomic(folder / "manifest.json", msgspec.json.encode(manifest))
        return parts


def open_source_shards(folder: Path) -> list[Shard] | None:
    """All shards of a complete source; None where it is not complete. Small ones are verified in full."""
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
        shards = [open_shard(_part_path(folder, i)) for i in range(manifest.parts)]
    except (FileNotFoundError, NotFoundError, msgspec.DecodeError):
        return None
    if sum(len(shard.payload) for shard in shards) <= VERIFY_BYTES:
        for shard in shards:
            verify_shard(shard)
    return shards


def _part_path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.tokens"


def _write_parts(
    source: Source, tokenizer: TextTokenizer, held_out: float, folder: Path, report: Report
) -> list[Shard]:
    documents = source.documents()
    done_bytes = 0
    shards: list[Shard] = []
    while True:
        path = _part_path(folder, len(shards))
        if path.exists():
            shard = open_shard(path)
            skipped = sum(1 for _ in islice(documents, shard.info.source_docs))
            if skipped < shard.info.source_docs:
                raise InputError(f"'{source.name}' changed while it was prepared", hint="prepare again")
        else:
            texts, num_bytes = _take_part(documents)
            if not texts:
                break

            def advance(part_bytes: int, before: int = done_bytes) -> None:
                report(Progress("tokens", source.name, before + part_bytes, source.size_bytes))

            split = _tokenise(texts, tokenizer, held_out, first_part=not shards, advance=advance)
            dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
            write_shard(DiskStore(), path, split, dtype, (len(texts), num_bytes))
            shard = open_shard(path)
        shards.append(shard)
        done_bytes += shard.info.text_bytes
    if not any(shard.info.train_docs for shard in shards):
        raise InputError(f"the source '{source.name}' holds no text", hint="name another file or field")
    return shards


def _take_part(documents: Iterator[str]) -> tuple[list[str], int]:
    texts: list[str] = []
    num_bytes = 0
    for text in documents:
        texts.append(text)
        num_bytes += len(text.encode())
        if num_bytes >= PART_BYTES:
            break
    return texts, num_bytes


Tokens = npt.NDArray[np.uint32]


def _tokenise(
    texts: list[str],
    tokenizer: TextTokenizer,
    held_out: float,
    *,
    first_part: bool,
    advance: Callable[[int], None],
) -> tuple[list[Tokens], list[Tokens]]:
    """(documents to train on, documents held out). A document's side depends on its text alone.

    Where that holds out none of a source's first part, the document of smallest hash is held out.
    """
    texts = [text for text in texts if text.strip()]
    hashes = [xxhash.xxh3_64_intdigest(text.encode(), seed=1) for text in texts]
    limit = int(held_out * 2**64)
    if first_part and held_out > 0 and len(set(hashes)) > 1:
        limit = max(limit, min(hashes) + 1)
    split: tuple[list[Tokens], list[Tokens]] = ([], [])
    done = first = 0
    for batch in _batches(texts):
        encoded = tokenizer.encode_documents(batch)
        for key, tokens in zip(hashes[first : first + len(batch)], encoded, strict=True):
            split[key < limit].append(tokens)
        first += len(batch)
        done += sum(len(text) for text in batch)
        advance(done)
    return split


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds a lock file; the kernel frees it when its process ends, however it ends."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise StorageError(
            f"cannot make a lock file: {e.strerror}",
            where=str(path),
            hint="set data.cache to a folder that can be written",
        ) from e
    deadline = time.monotonic() + LOCK_WAIT_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as e:
                if time.monotonic() > deadline:
                    raise StorageError(
                        "another process has held this lock for a day",
                        where=str(path),
                        hint="see what it does; ending it frees the lock",
                    ) from e
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
