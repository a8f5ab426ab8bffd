"""Damaged checkpoints: how often training resumes from the newest one that is intact, bit for bit.

Each case writes four checkpoints, damages files of some of them but never of the oldest, and loads. Which
one is intact is judged by the bytes on the disk, not by the loader.
"""

import io
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from isthmus.journal.store import DiskStore
from isthmus.spec.model import ModelSpec
from isthmus.train.checkpoint import Checkpoint, Facts, load_newest, write_checkpoint
from isthmus_bench.document import Result, package_version

STEPS = (90, 100, 110, 1200)
SEED = 20
Arrays = dict[str, np.ndarray]
Files = dict[int, list[bytes]]
"""Step -> the bytes of its files as they were written."""
Damage = Callable[[random.Random, list[Path]], None]
"""What befalls the files of one checkpoint."""


def run(quick: bool) -> list[Result]:
    count = 50 if quick else 500
    outcomes = [resumes(seed) for seed in range(SEED, SEED + count)]
    ours, theirs = (sum(column) for column in zip(*outcomes, strict=True))
    peer = f"torch {package_version('torch')} (torch.save, newest file that torch.load takes)"
    note = (
        f"{ours} of {count} cases of truncated, flipped, emptied, exchanged, deleted, lengthened or zeroed "
        f"files and leftover temporaries, seeds from {SEED}, resumed from the newest intact checkpoint"
    )
    return [Result("faults.corruption.resumed", ours / count, "share", {peer: theirs / count}, note)]


def resumes(seed: int) -> tuple[bool, bool]:
    """(ours, the peer): whether it resumes as it must, after the damage that `seed` draws."""
    with tempfile.TemporaryDirectory() as folder:
        places = Path(folder) / "ours", Path(folder) / "peer"
        for place in places:
            place.mkdir()
        return _ours(seed, places[0]), _peer(seed, places[1])


def _ours(seed: int, folder: Path) -> bool:
    for step in STEPS:
        parameters, moments = state(step)
        write_checkpoint(DiskStore(), folder, facts(step), parameters, moments)
    written = {step: [path.read_bytes() for path in files(folder, step)] for step in STEPS}
    places = {step: files(folder, step) for step in STEPS}
    hurt(random.Random(seed), places)
    found, _ = load_newest(DiskStore(), folder)
    return found is not None and is_exact(found, _newest_intact(folder, written, places))


def _newest_intact(folder: Path, written: Files, places: dict[int, list[Path]]) -> int:
    """A manifest counts wherever it is, its tensor file only where the manifest says."""
    manifests = [path.read_bytes() for path in folder.glob("step-*.json")]
    return max(
        step
        for step, (tensors, manifest) in written.items()
        if manifest in manifests and _is(places[step][0], tensors)
    )


def _is(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _peer(seed: int, folder: Path) -> bool:
    """One file for each checkpoint, damaged by the same draws."""
    places = {step: [folder / f"step-{step:09d}.pt"] for step in STEPS}
    for step in STEPS:
        buffer = io.BytesIO()
        tensors = [{name: torch.from_numpy(a) for name, a in arrays.items()} for arrays in state(step)]
        torch.save(tensors, buffer)
        places[step][0].write_bytes(buffer.getvalue())
    written = {step: places[step][0].read_bytes() for step in STEPS}
    hurt(random.Random(seed), places)
    left = [path.read_bytes() for path in folder.glob("step-*.pt")]
    newest = max(step for step in STEPS if written[step] in left)
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        with suppress(Exception):
            parameters, moments = torch.load(path, weights_only=True)
            expected = state(newest)
            return all(map(_equals, (parameters, moments), expected))
    return False


def _equals(tensors: dict[str, torch.Tensor], arrays: Arrays) -> bool:
    return tensors.keys() == arrays.keys() and all(
        np.array_equal(tensors[name].numpy().view(np.uint8), array.view(np.uint8))
        for name, array in arrays.items()
    )


def facts(step: int) -> Facts:
    return Facts(
        step=step, tokens=4096 * step, progress=step / 2000, version=step // 10, model=ModelSpec(),
        data="fingerprint", feed={"next": 16 * step},
    )  # fmt: skip


def state(step: int) -> tuple[Arrays, Arrays]:
    """(parameters, moments) of that step."""
    draws = np.random.default_rng(step)
    weights = {f"layers.{n}.w": draws.standard_normal((24, 32), np.float32) for n in range(4)}
    return weights, {f"first.{name}": array * 0.1 for name, array in weights.items()}


def files(folder: Path, step: int) -> list[Path]:
    """[tensor file, manifest]."""
    (tensors,) = folder.glob(f"step-{step:09d}-*.safetensors")
    return [tensors, folder / f"step-{step:09d}.json"]


def is_exact(found: Checkpoint, step: int) -> bool:
    parameters, moments = state(step)
    return (
        found.facts == facts(step) and _same(found.parameters, parameters) and _same(found.moments, moments)
    )


def _same(found: Arrays, arrays: Arrays) -> bool:
    return found.keys() == arrays.keys() and all(
        found[name].shape == array.shape and found[name].tobytes() == array.tobytes()
        for name, array in arrays.items()
    )


def hurt(draws: random.Random, places: dict[int, list[Path]]) -> None:
    """Damage the newest checkpoint or several, never the oldest."""
    younger = sorted(places)[1:]
    hit = younger[-1:] if draws.random() < 0.5 else draws.sample(younger, draws.randint(1, len(younger)))
    if draws.random() < 0.1:
        _exchange(draws, places, younger)
    for step in hit:
        here = [path for path in _targets(draws, places[step]) if path.exists()]
        draws.choice(DAMAGES)(draws, here)
    if draws.random() < 0.3:
        _leave_temporary(draws, places[younger[-1]][0])


def _targets(draws: random.Random, paths: Sequence[Path]) -> Iterator[Path]:
    """Tensor file, manifest, or both."""
    choice = draws.choice(("tensors", "manifest", "both"))
    for path in paths:
        kind = "manifest" if path.suffix == ".json" else "tensors"
        if len(paths) == 1 or choice in ("both", kind):
            yield path


def _exchange(draws: random.Random, places: dict[int, list[Path]], steps: list[int]) -> None:
    """Two checkpoints' files of one kind have changed their names."""
    first, second = draws.sample(steps, 2)
    kind = draws.randrange(len(places[first]))
    one, other = places[first][kind], places[second][kind]
    aside = one.with_name(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _leave_temporary(draws: random.Random, like: Path) -> None:
    """What a writer that was killed leaves behind, of a step that never was finished."""
    name = like.name.replace("1200", "1300")
    whole = like.read_bytes() if like.exists() else b"{"
    like.with_name(f".{name}.tmp").write_bytes(whole[: draws.randrange(len(whole) + 1)])


def _flip(draws: random.Random, paths: list[Path]) -> None:
    for path in paths:
        data = bytearray(path.read_bytes())
        for _ in range(draws.choice((1, 1, 1, 8, 64)) if data else 0):
            data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
        path.write_bytes(data)


def _truncate(draws: random.Random, paths: list[Path]) -> None:
    for path in paths:
        data = path.read_bytes()
        path.write_bytes(data[: draws.randrange(len(data)) if data else 0])


def _empty(draws: random.Random, paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(b"")


def _delete(draws: random.Random, paths: list[Path]) -> None:
    for path in paths:
        path.unlink()


def _lengthen(draws: random.Random, paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes() + draws.randbytes(draws.choice((1, 512))))


def _zero(draws: random.Random, paths: list[Path]) -> None:
    """A block that never reached the disk."""
    for path in paths:
        data = bytearray(path.read_bytes())
        start = draws.randrange(len(data) or 1) // 512 * 512
        data[start : start + 512] = bytes(len(data[start : start + 512]))
        path.write_bytes(data)


DAMAGES: tuple[Damage, ...] = (_flip, _flip, _flip, _truncate, _truncate, _empty, _delete, _lengthen, _zero)
