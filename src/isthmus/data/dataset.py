"""`prepare` turns a DataSpec into a Dataset: samples by global index, held-out text, and the tokenizer."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from isthmus.data.order import Mixture, Order, present
from isthmus.data.prepare import (
    Progress,
    Report,
    cached_tokenizer,
    open_source_shards,
    prepare_source,
    shard_folder,
    tokenizer_path,
)
from isthmus.data.shards import Shard, verify_shard
from isthmus.data.sources import open_source
from isthmus.data.stream import TokenStream
from isthmus.data.tokenizer import TextTokenizer, check_vocab, load_tokenizer
from isthmus.errors import InputError, NotFoundError
from isthmus.spec.run import DataSpec

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Batch = tuple[I32, I32]
"""(tokens, doc_ids), both int32[n, seq_len + 1]."""


class SourceSummary(msgspec.Struct, frozen=True):
    name: str
    documents: int
    text_bytes: int
    train_tokens: int
    held_tokens: int
    samples: int
    """Windows of seq_len in one epoch."""
    files: list[str]


class Dataset:
    """Every process of a run that opens the same spec sees the same tokens at the same global index.

    The index has no end: a source that is used up begins its next epoch in another order.
    """

    def __init__(self, spec: DataSpec, tokenizer: TextTokenizer, shards: Sequence[Sequence[Shard]]):
        self.spec = spec
        self.seq_len = spec.seq_len
        self.tokenizer = tokenizer
        self._shards = shards
        self._streams = [TokenStream(parts) for parts in shards]
        self._held = [TokenStream(parts, held_out=True) for parts in shards]
        sizes = [stream.num_windows(self.seq_len) for stream in self._streams]
        for source, stream, size in zip(spec.sources, self._streams, sizes, strict=True):
            if size == 0:
                raise InputError(
                    f"the source '{source.path}' has {stream.num_tokens} tokens to train on, "
                    f"one sequence takes {self.seq_len + 1}",
                    hint="give it more text, or set a smaller data.seq_len",
                )
        self.order = Order(spec.seed, sizes, mixture_of(spec))
        self.fingerprint = self._fingerprint()

    @property
    def num_samples(self) -> int:
        """Samples that differ: one epoch of every source. A sample is `seq_len` targets."""
        return sum(self.order.sizes)

    @property
    def eos_id(self) -> int:
        """The token that ends each document."""
        return self.tokenizer.eos_id

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        return self.tokenizer.decode(ids)

    def sample_indices(self, start: int, end: int) -> tuple[I64, I64]:
        """(source, sample in it), int64[end - start], of the global indices [start, end)."""
        return self.order.locate(np.arange(start, end, dtype=np.int64))

    def batch(self, indices: I64) -> Batch:
        """(tokens, doc_ids), int32[n, T+1], of global indices int64[n]; inputs are [:, :-1], targets [:, 1:].

        doc_ids count up from 0 in each row; a document is its tokens with the eos that ends it.
        """
        source, sample = self.order.locate(np.asarray(indices, np.int64))
        shape = (len(sample), self.seq_len + 1)
        tokens, doc_ids = np.empty(shape, np.int32), np.zeros(shape, np.int32)
        for s in present(source, len(self._streams)):
            rows = np.flatnonzero(source == s)
            self._streams[s].gather(sample[rows] * self.seq_len, rows, tokens, doc_ids)
        return tokens, doc_ids

    def stream(self, start: int, end: int, rows: int = 256) -> Iterator[Batch]:
        """The global stream [start, end) in order, `rows` samples at a time."""
        for begin in range(start, end, rows):
            yield self.batch(np.arange(begin, min(begin + rows, end), dtype=np.int64))

    def held_out(self, n: int) -> Batch:
        """At most n held-out samples, spread evenly over the held-out text; the same ones each time.

        No rows where `data.held_out` is 0. Raises InputError where the held-out text is too short for one.
        """
        sizes = np.array([stream.num_windows(self.seq_len) for stream in self._held], np.int64)
        total = int(sizes.sum())
        if total == 0 and self.spec.held_out > 0:
            raise InputError(
                f"the held-out text is shorter than one sequence of {self.seq_len + 1} tokens",
                hint="raise data.held_out, give more text, or set data.held_out: 0 for no evaluation",
            )
        count = min(n, total)
        chosen = np.arange(count, dtype=np.int64) * total // max(count, 1)
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        shape = (count, self.seq_len + 1)
        tokens, doc_ids = np.empty(shape, np.int32), np.zeros(shape, np.int32)
        for s, stream in enumerate(self._held):
            rows = np.flatnonzero((chosen >= bounds[s]) & (chosen < bounds[s + 1]))
            stream.gather((chosen[rows] - bounds[s]) * self.seq_len, rows, tokens, doc_ids)
        return tokens, doc_ids

    def verify(self) -> None:
        """Reads every shard against its checksums; raises CorruptError at the first bad block."""
        for parts in self._shards:
            for shard in parts:
                verify_shard(shard)

    def summary(self) -> list[SourceSummary]:
        """One line for each source."""
        return [
            SourceSummary(
                name=source.path,
                documents=sum(shard.info.train_docs + shard.info.held_docs for shard in parts),
                text_bytes=sum(shard.info.text_bytes for shard in parts),
                train_tokens=sum(shard.info.train_tokens for shard in parts),
                held_tokens=sum(shard.info.held_tokens for shard in parts),
                samples=size,
                files=[str(shard.path) for shard in parts],
            )
            for source, parts, size in zip(self.spec.sources, self._shards, self.order.sizes, strict=True)
        ]

    def _fingerprint(self) -> str:
        """Names tokens and order, not where they lie: sites that agree on it read the same global stream."""
        facts = ("order-1", self.tokenizer.hash, self.seq_len, self.spec.seed, self.order.mixture.phases)
        digest = xxhash.xxh3_128(repr(facts).encode())
        for parts in self._shards:
            for shard in parts:
                digest.update(msgspec.json.encode(shard.info))
            digest.update(b"\0")
        return digest.hexdigest()


def mixture_of(spec: DataSpec) -> Mixture:
    """The sources' weights, then `data.phases`, whose borders are counted in tokens of the run."""
    phases: list[tuple[int, list[float]]] = [(0, [source.weight for source in spec.sources])]
    phases += [(phase.after // spec.seq_len, phase.weights) for phase in spec.phases]
    return Mixture(phases)


def prepare(spec: DataSpec, vocab_size: int, progress: Report | None = None) -> Dataset:
    """Tokenises what is not in the cache yet and opens the rest. Safe in several processes at once.

    Raises InputError or NotFoundError for a bad source or tokenizer, CorruptError for a damaged shard.
    """
    report = progress or _silent
    cache = Path(spec.cache).expanduser()
    mixture_of(spec)
    sources = [open_source(source) for source in spec.sources]
    if spec.tokenizer == "train":
        tokenizer = cached_tokenizer(sources, vocab_size, cache, report)
    else:
        tokenizer = load_tokenizer(Path(spec.tokenizer).expanduser())
    check_vocab(tokenizer, vocab_size, spec.tokenizer)
    return Dataset(
        spec, tokenizer, [prepare_source(s, tokenizer, spec.held_out, cache, report) for s in sources]
    )


def open_prepared(spec: DataSpec, vocab_size: int) -> Dataset:
    """Opens what `prepare` has left in the cache; NotFoundError where something is missing."""
    cache = Path(spec.cache).expanduser()
    sources = [open_source(source) for source in spec.sources]
    trained = spec.tokenizer == "train"
    path = tokenizer_path(sources, vocab_size, cache) if trained else Path(spec.tokenizer).expanduser()
    if trained and not path.exists():
        raise _unprepared("the tokenizer is not trained yet", path)
    tokenizer = load_tokenizer(path)
    check_vocab(tokenizer, vocab_size, str(path))
    shards: list[list[Shard]] = []
    for source in sources:
        folder = shard_folder(source, tokenizer, spec.held_out, cache)
        found = open_source_shards(folder)
        if found is None:
            raise _unprepared(f"the source '{source.name}' is not prepared yet", folder)
        shards.append(found)
    return Dataset(spec, tokenizer, shards)


def _unprepared(message: str, path: Path) -> NotFoundError:
    return NotFoundError(message, where=str(path), hint="run `isthmus data prepare` with the same run.yaml")


def _silent(progress: Progress) -> None:
    return None
