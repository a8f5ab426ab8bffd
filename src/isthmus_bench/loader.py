"""`isthmus bench loader`: is the stream the same however it is cut, and how fast is it resumed and read?"""

import random
import statistics
import sysconfig
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash

from isthmus.data.dataset import Dataset, prepare
from isthmus.data.loader import I32, I64, Loader
from isthmus.data.order import Mixture, Order
from isthmus.data.shards import open_shard
from isthmus.spec.run import DataSpec, PhaseSpec, SourceSpec
from isthmus.units import Count
from isthmus_bench.document import Result, package_version

VOCAB_SIZE = 4096
SHORT = 128
BATCH = 64
FAR = 10**9


def run(quick: bool) -> list[Result]:
    """loader.identical, loader.resume_ms, loader.tokens_per_s; the first run prepares the data (seconds)."""
    return [identical(20 if quick else 100), resume(), tokens_per_s(20 if quick else 200)]


def _spec(seq_len: int) -> DataSpec:
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [
        SourceSpec(weight=2),
        SourceSpec(path=str(library / "asyncio" / "*.py")),
        SourceSpec(path=str(library / "json" / "*.py")),
    ]
    return DataSpec(sources=sources, seq_len=seq_len)


_Phases = tuple[tuple[int, tuple[float, ...]], ...]


@lru_cache(maxsize=4)
def _open(phases: _Phases) -> Dataset:
    """The data with the mixture changed at each (sample, weights)."""
    spec = _spec(SHORT)
    changes = [PhaseSpec(after=Count(start * SHORT), weights=list(weights)) for start, weights in phases]
    return prepare(msgspec.structs.replace(spec, phases=changes), VOCAB_SIZE)


class _Share(msgspec.Struct, frozen=True):
    """What one rank of one site reads between two changes."""

    ranges: list[tuple[int, int]]
    batch_size: int
    rank: int
    world: int
    workers: int


def _read(phases: _Phases, share: _Share) -> tuple[I64, I32]:
    loader = Loader(_open(phases), share.ranges, share.batch_size, share.rank, share.world, share.workers)
    batches = list(loader)
    return np.concatenate([b.indices for b in batches]), np.concatenate([b.tokens for b in batches])


def identical(num_changes: int, num_samples: int = 400) -> Result:
    """Each change cuts the stream elsewhere, alters the mixture and goes on with other sites and ranks."""
    random_ = random.Random(0)
    _open(())
    same = 0
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as processes:
        for _ in range(num_changes):
            same += _one_change(num_samples, random_, processes)
    note = f"{num_samples} samples each by separate processes, hashed against one process reading in order"
    return Result("loader.identical", same / num_changes, f"share of {num_changes} changes", note=note)


def _one_change(count: int, random_: random.Random, processes: ProcessPoolExecutor) -> bool:
    """Before the change everyone reads by the old mixture alone, after it by the new schedule."""
    change = random_.randrange(1, count)
    changed: _Phases = ((change, tuple(random_.random() + 0.01 for _ in _spec(SHORT).sources)),)
    whole = np.concatenate([tokens for tokens, _ in _open(changed).stream(0, count)])
    seen = np.full_like(whole, -1)
    reads: list[Future[tuple[I64, I32]]] = []
    for phases, start, end in (((), 0, change), (changed, change, count)):
        reads += [processes.submit(_read, phases, share) for share in _shares(start, end, random_)]
    for read in reads:
        indices, tokens = read.result()
        seen[indices] = tokens
    return xxhash.xxh3_128_digest(seen.tobytes()) == xxhash.xxh3_128_digest(whole.tobytes())


def _shares(start: int, end: int, random_: random.Random) -> list[_Share]:
    """[start, end) leased in ranges to some sites, each with its own number of ranks, batch and workers."""
    num_sites = random_.randint(1, 4)
    leases: list[list[tuple[int, int]]] = [[] for _ in range(num_sites)]
    while start < end:
        stop = min(end, start + random_.randint(1, 64))
        random_.choice(leases).append((start, stop))
        start = stop
    shares: list[_Share] = []
    for ranges in leases:
        world, batch_size, workers = random_.randint(1, 4), random_.randint(1, 33), random_.randint(0, 3)
        if ranges:
            shares += [_Share(ranges, batch_size, rank, world, workers) for rank in range(world)]
    return shares


def resume() -> Result:
    """From a step number to the first batch: open the cached data, place the batch among 10^9 samples."""
    import torch

    spec = _spec(1024)
    num_samples = prepare(spec, VOCAB_SIZE).num_samples

    def go_on() -> None:
        dataset = prepare(spec, VOCAB_SIZE)
        order = Order(0, [FAR, FAR // 3, FAR // 7], Mixture([(0, (5.0, 3.0, 1.0))]))
        order.locate(np.arange(FAR, FAR + BATCH))
        dataset.batch(np.arange(FAR, FAR + BATCH))

    name = f"torch.randperm {torch.__version__} (10^7 samples, a hundredth as many)"
    peer = {name: 1000 * _median_s(lambda: torch.randperm(10**7), 3, time.perf_counter)}
    value = 1000 * _median_s(go_on, 9, time.perf_counter)
    note = (
        f"in a warm process: opens and checks the cached shards ({num_samples:,} samples), "
        f"places {BATCH} in an order of 10^9, reads {BATCH}x1025 at index 10^9, many epochs on"
    )
    return Result("loader.resume_ms", value, "ms", peer, note)


def tokens_per_s(repeats: int) -> Result:
    """One thread, data in the page cache, CPU seconds: permutation, mixture, gather and document ids."""
    dataset = prepare(_spec(1024), VOCAB_SIZE)
    position = 0

    def read() -> None:
        nonlocal position
        dataset.batch(np.arange(position, position + BATCH))
        position += BATCH

    tokens = BATCH * dataset.seq_len
    version = package_version("torch")
    peers = {
        f"torch DataLoader {version} ({what})": tokens
        / _median_s(_torch_reader(dataset, document_ids), repeats, time.thread_time)
        for what, document_ids in (
            ("memmap, shuffled, 0 workers", False),
            ("the same with document ids", True),
        )
    }
    value = tokens / _median_s(read, repeats, time.thread_time)
    note = f"batches of {BATCH}x1025; the peers read one source without a mixture, their order fills memory"
    return Result("loader.tokens_per_s", value, "tokens/s per core", peers, note)


def _torch_reader(dataset: Dataset, document_ids: bool) -> Callable[[], None]:
    """Reads the next batch of the first source's samples by the usual map-style dataset."""
    from torch import from_numpy
    from torch.utils.data import DataLoader
    from torch.utils.data import Dataset as TorchDataset

    shard = open_shard(Path(dataset.summary()[0].files[0]))
    memory, length = shard.tokens[: shard.info.train_tokens], dataset.seq_len
    starts = shard.starts[: shard.info.train_docs].view(np.int64)

    class Windows(TorchDataset[Any]):
        def __len__(self) -> int:
            return (len(memory) - 1) // length

        def __getitem__(self, index: int) -> Any:
            begin = index * length
            tokens = from_numpy(memory[begin : begin + length + 1].astype(np.int32))
            if not document_ids:
                return tokens
            low, high = np.searchsorted(starts, (begin + 1, begin + length + 1))
            ids = np.zeros(length + 1, np.int32)
            ids[starts[low:high] - begin] = 1
            return tokens, from_numpy(np.cumsum(ids, dtype=np.int32))

    loader = DataLoader(Windows(), batch_size=BATCH, shuffle=True, drop_last=True)
    batches = iter(loader)

    def read() -> None:
        nonlocal batches
        if next(batches, None) is None:
            batches = iter(loader)
            next(batches)

    return read


def _median_s(what: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    what()
    times: list[float] = []
    for _ in range(repeats):
        start = clock()
        what()
        times.append(clock() - start)
    return statistics.median(times)
