import contextlib
import os
import random
import signal
import stat
import time

import numpy as np
import pytest

from isthmus.errors import StorageError
from isthmus.train import peer_copy
from isthmus.train.peer_copy import PeerCopy, Shard, layout_of, neighbour


def state(step: int) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(step)
    return {
        "model.w": draws.standard_normal((40, 33), np.float32),
        "model.none": np.zeros((0, 4), np.float32),
        "optimizer.steps": np.array(step, np.float32),
        "optimizer.count": draws.integers(0, 9, 5),
    }


def facts(step: int) -> bytes:
    return b"facts of step %d" % step


LAYOUT = layout_of(state(0))


def copy_in(folder, run: bytes = b"run", shard: Shard = Shard()) -> PeerCopy:  # noqa: B008
    return PeerCopy(folder, run, LAYOUT, shard)


def is_exact(found, step: int) -> bool:
    return (
        found.step == step
        and found.facts == facts(step)
        and found.arrays.keys() == LAYOUT.keys()
        and all(found.arrays[name].tobytes() == array.tobytes() for name, array in state(step).items())
        and all(found.arrays[name].shape == array.shape for name, array in state(step).items())
    )


def write(folder, *steps: int) -> PeerCopy:
    copy = copy_in(folder)
    for step in steps:
        copy.save(step, facts(step), state(step))
        copy.done(step)
    return copy


def test_the_newest_copy_comes_back_bit_for_bit(tmp_path):
    write(tmp_path, 1, 2, 3).close()
    copy = copy_in(tmp_path)
    assert copy.steps() == [3, 2]
    assert is_exact(copy.newest(), 3)
    assert is_exact(copy.newest(2), 2)
    assert copy.newest(1) is None
    assert copy.last_done() == 3


def test_a_new_process_writes_over_the_older_one(tmp_path):
    write(tmp_path, 1, 2).close()
    copy = write(tmp_path, 3)
    assert copy.steps() == [3, 2]


def test_without_a_file_there_is_nothing(tmp_path):
    copy = copy_in(tmp_path)
    assert copy.newest() is None
    assert copy.steps() == []
    assert copy.last_done() == -1
    copy.done(3)
    copy.drop_after(0)
    assert not copy.path.exists()


def test_the_file_is_private_and_goes(tmp_path):
    copy = write(tmp_path, 1)
    assert stat.S_IMODE(copy.path.stat().st_mode) == 0o600
    copy.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", ["run", "shard", "layout", "mode", "link"])
def test_a_leftover_of_another_is_never_taken(tmp_path, other):
    mine = write(tmp_path, 5)
    mine.close()
    layout = {**LAYOUT, "model.w": layout_of({"w": np.zeros((33, 40), np.float32)})["w"]}
    theirs = {
        "run": copy_in(tmp_path, b"other"),
        "shard": copy_in(tmp_path, shard=Shard(owner=0, index=1, of=2)),
        "layout": PeerCopy(tmp_path, b"run", layout),
    }.get(other, copy_in(tmp_path))
    if other == "mode":
        mine.path.chmod(0o644)
    elif other == "link":
        mine.path.rename(tmp_path / "aside")
        mine.path.symlink_to(tmp_path / "aside")
    elif other == "shard":
        mine.path.rename(theirs.path)
    assert theirs.newest() is None
    assert theirs.last_done() == -1
    if other != "layout":
        theirs.save(6, facts(6), state(6))
        assert theirs.steps() == [6]


def test_what_is_rolled_back_is_gone(tmp_path):
    copy = write(tmp_path, 4, 5)
    copy.drop_after(4)
    assert is_exact(copy.newest(), 4)
    copy.drop_after(3)
    assert copy.newest() is None


@pytest.mark.parametrize("base", range(0, 200, 50))
def test_a_torn_copy_is_never_taken(tmp_path, base):
    """Whatever is cut or flipped: the newest slot whose bytes are those written, or none."""
    for seed in range(base, base + 50):
        draws = random.Random(seed)
        copy = write(tmp_path, 7, 8)
        copy.close()
        whole = copy.path.read_bytes()
        hurt = bytearray(whole)
        if draws.random() < 0.3:
            del hurt[draws.randrange(len(hurt)) :]
        ranges = _ranges(copy)
        for _ in range(draws.choice((1, 1, 2, 8))):
            start, end = draws.choice(list(ranges.values()))
            place = draws.randrange(start, end)
            if place < len(hurt):
                hurt[place] ^= 1 << draws.randrange(8)
        copy.path.write_bytes(hurt)
        intact = len(hurt) == len(whole) and _same(whole, hurt, ranges["header"])
        sound = [step for step in (8, 7) if intact and _same(whole, hurt, ranges[f"slot of {step}"])]
        found = copy_in(tmp_path).newest()
        if sound:
            assert found is not None, seed
            assert is_exact(found, sound[0]), seed
        else:
            assert found is None, seed
        assert copy_in(tmp_path).last_done() in (8, -1)
        copy.path.unlink()


def _ranges(copy: PeerCopy) -> dict[str, tuple[int, int]]:
    """Where what counts is, by what it is; the gaps are filled with zeros and of no meaning."""
    body = sum(entry.num_bytes for entry in copy.layout.values())
    assert body <= copy.body_bytes
    slot = lambda n: 4096 + n * copy.slot_bytes  # noqa: E731
    spans = {"header": (0, 56), "done": (2048, 2064)}
    for n, step in enumerate((7, 8)):
        spans[f"slot of {step}"] = (slot(n), slot(n) + 56)
        spans[f"facts of {step}"] = (slot(n) + 4096, slot(n) + 4096 + len(facts(step)))
        first = slot(n) + 4096 + peer_copy.FACTS_BYTES
        spans[f"w of {step}"] = (first, first + 40 * 33 * 4)
    return spans


def _same(whole: bytes, hurt: bytearray, span: tuple[int, int]) -> bool:
    start, end = span
    if start >= 4096:  # of a slot: all of it
        end = start + 4096 + peer_copy.FACTS_BYTES + 40 * 33 * 4
    return whole[start:end] == hurt[start:end]


def test_a_writer_may_be_killed_at_any_instant(tmp_path):
    """Another process finds the newest sealed copy: the last that was told, or the one after it."""
    draws = random.Random(1)
    seen, told, sender = 0, *os.pipe()
    os.set_blocking(told, False)
    for _ in range(100):
        pid = os.fork()
        if pid == 0:
            _write_on(tmp_path, sender)
        time.sleep(draws.uniform(0.0, 0.02))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with contextlib.suppress(BlockingIOError):
            seen = int(os.read(told, 1 << 20).split()[-1])
        copy = copy_in(tmp_path)
        found = copy.newest()
        if seen or found:
            assert found is not None
            assert found.step in (seen, seen + 1)
            assert is_exact(found, found.step)
            assert copy.last_done() <= found.step
            seen = found.step
    assert seen > 20
    os.close(told)
    os.close(sender)


def _write_on(folder, sender: int) -> None:
    try:
        copy = copy_in(folder)
        found = copy.newest()
        step = found.step if found else 0
        while True:
            step += 1
            copy.save(step, facts(step), state(step))
            os.write(sender, b"%d\n" % step)
            copy.done(step)
    finally:
        os._exit(1)


def test_memory_that_is_full_is_an_error_and_no_signal(tmp_path, monkeypatch):
    copy = copy_in(tmp_path)
    monkeypatch.setattr(peer_copy, "free_bytes", lambda folder: copy.size + peer_copy.HEADROOM)
    with pytest.raises(StorageError, match="MiB of memory are free"):
        copy.save(1, facts(1), state(1))

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(peer_copy, "free_bytes", lambda folder: 1 << 40)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(StorageError, match="No space left"):
        copy.save(1, facts(1), state(1))
    assert list(tmp_path.iterdir()) == []


def test_free_memory_is_known(tmp_path):
    assert peer_copy.free_bytes(tmp_path) > 0


@pytest.mark.parametrize(
    ("world_size", "ranks_per_node", "expected"),
    [
        (1, 1, [0]),
        (4, 4, [0, 1, 2, 3]),
        (4, 2, [2, 3, 0, 1]),
        (6, 2, [2, 3, 4, 5, 0, 1]),
        (3, 1, [1, 2, 0]),
        (3, 2, [2, 2, 0]),
    ],
)
def test_a_neighbour_is_on_another_node(world_size, ranks_per_node, expected):
    assert [neighbour(rank, world_size, ranks_per_node) for rank in range(world_size)] == expected
