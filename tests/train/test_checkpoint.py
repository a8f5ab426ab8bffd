import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from isthmus.errors import StorageError
from isthmus.journal.memory_store import Crash, MemoryStore
from isthmus.journal.store import DiskStore, Store
from isthmus.spec.model import ModelSpec
from isthmus.train.checkpoint import (
    CheckpointWriter,
    Facts,
    Saved,
    drop_after,
    load_newest,
    prune,
    write_checkpoint,
)

FOLDER = Path("/run/checkpoints")


def facts(step: int) -> Facts:
    return Facts(
        step=step, tokens=10 * step, progress=0.5, version=7, model=ModelSpec(), data="d", feed={"next": step}
    )


def arrays(step: int) -> dict[str, np.ndarray]:
    return {"w": np.full((3, 5), step, np.float32), "b": np.arange(step, step + 4, dtype=np.float32)}


def write(store: Store, step: int, folder: Path = FOLDER) -> Path:
    return write_checkpoint(store, folder, facts(step), arrays(step), {"first.w": arrays(step)["w"] / 2})


def check(store: Store, folder: Path = FOLDER) -> int:
    """The newest good step (0: none), having checked that it holds what was written."""
    found, _ = load_newest(store, folder)
    if found is None:
        return 0
    step = found.facts.step
    assert found.facts == facts(step)
    assert found.parameters.keys() == {"w", "b"}
    for name, array in arrays(step).items():
        np.testing.assert_array_equal(found.parameters[name], array)
    np.testing.assert_array_equal(found.moments["first.w"], arrays(step)["w"] / 2)
    return step


def test_the_newest_comes_back():
    store = MemoryStore()
    write(store, 1)
    write(store, 20)
    write(store, 3)
    assert check(store) == 20


@pytest.mark.parametrize("damage", ["flip", "truncate", "no tensors", "manifest"])
def test_falls_back_and_says_what_it_skipped(damage):
    store = MemoryStore()
    write(store, 1)
    path = write(store, 2)
    match damage:
        case "flip":
            store.flip(path, store.size(path) - 3)
        case "truncate":
            store.truncate(path, store.size(path) - 1)
        case "no tensors":
            store.delete(path)
        case "manifest":
            store.truncate(FOLDER / "step-000000002.json", 20)
    found, skipped = load_newest(store, FOLDER)
    assert found is not None
    assert found.facts.step == 1
    assert [item.path.name for item in skipped] == ["step-000000002.json"]
    assert skipped[0].reason


def test_no_flipped_bit_of_a_manifest_passes_for_another_state():
    """Without its own checksum, `"step":2` becomes `"step":3` and stays sound JSON."""
    store = MemoryStore()
    write(store, 1)
    write(store, 2)
    path = FOLDER / "step-000000002.json"
    whole = bytes(store.read(path))
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        store.write_atomic(path, damaged)
        assert check(store) == 1, bit


def test_checkpoints_of_format_1_are_still_read():
    store = MemoryStore()
    path = write(store, 2)
    manifest = FOLDER / "step-000000002.json"
    sealed = msgspec.json.decode(bytes(store.read(manifest)))
    store.write_atomic(manifest, msgspec.json.encode({**sealed["manifest"], "format": 1}))
    assert check(store) == 2
    write(store, 3)
    prune(store, FOLDER, keep=2)
    assert path.name in store.list(FOLDER)


def test_exchanged_manifests_are_taken_by_what_they_say():
    store = MemoryStore()
    write(store, 1)
    write(store, 2)
    first, second = (FOLDER / f"step-00000000{step}.json" for step in (1, 2))
    older, newer = bytes(store.read(first)), bytes(store.read(second))
    store.write_atomic(first, newer)
    store.write_atomic(second, older)
    assert check(store) == 2


def test_only_what_may_have_been_newer_is_told_as_skipped():
    store = MemoryStore()
    for step in (1, 2, 3):
        write(store, step)
    for step in (1, 3):
        store.truncate(FOLDER / f"step-00000000{step}.json", 0)
    found, skipped = load_newest(store, FOLDER)
    assert found is not None
    assert found.facts.step == 2
    assert [item.path.name for item in skipped] == ["step-000000003.json"]


def test_power_loss_at_every_operation_leaves_an_acknowledged_checkpoint_or_a_newer_one():
    for crash_at in itertools.count():
        store = MemoryStore(crash_at=crash_at, seed=crash_at)
        acknowledged = 0
        try:
            for step in range(1, 5):
                write(store, step)
                acknowledged = step
                prune(store, FOLDER, keep=2)
        except Crash:
            for survivor in (store.after_kill(), store.after_power_loss()):
                assert check(survivor) in (acknowledged, acknowledged + 1)
        else:
            assert acknowledged == 4
            return


def test_power_loss_while_a_step_is_saved_again_with_other_values_leaves_one_of_both():
    """A new version may change the parameters between two saves at the same step."""
    for crash_at in itertools.count():
        store = MemoryStore(seed=crash_at)
        write(store, 3)
        store.operations, store.crash_at = 0, crash_at
        other = {"w": np.full((3, 5), -1, np.float32)}
        try:
            write_checkpoint(store, FOLDER, facts(3), other, {})
            prune(store, FOLDER, keep=1)
        except Crash:
            for survivor in (store.after_kill(), store.after_power_loss()):
                found, skipped = load_newest(survivor, FOLDER)
                assert found is not None
                assert skipped == []
                assert found.parameters["w"][0, 0] in (3, -1)
        else:
            assert len(store.list(FOLDER)) == 2
            return


def test_pruning_keeps_the_newest_and_clears_what_a_crash_left():
    store = MemoryStore()
    for step in range(1, 6):
        write(store, step)
    store.delete(FOLDER / "step-000000001.json")
    prune(store, FOLDER, keep=2)
    names = store.list(FOLDER)
    assert [name[:14] for name in names] == ["step-000000004"] * 2 + ["step-000000005"] * 2
    assert [Path(name).suffix for name in names] == [".safetensors", ".json"] * 2


def test_what_a_roll_back_dropped_does_not_come_back_after_power_loss():
    for seed in range(20):
        store = MemoryStore(seed=seed)
        for step in (1, 2, 3):
            write(store, step)
        drop_after(store, FOLDER, 1)
        assert check(store.after_power_loss()) == 1


def test_nothing_is_pruned_by_a_manifest_that_cannot_be_read():
    store = MemoryStore()
    for step in (1, 2):
        write(store, step)
    store.truncate(FOLDER / "step-000000002.json", 20)
    before = store.list(FOLDER)
    prune(store, FOLDER, keep=2)
    assert store.list(FOLDER) == before


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    left = tmp_path / ".step-000000001-aaaaaaaa.safetensors.tmp"
    left.touch()
    CheckpointWriter(tmp_path, 1, lambda saved: None)
    assert not left.exists()


def test_a_full_disk_fails_the_save_and_spares_the_old_one():
    store = MemoryStore()
    write(store, 1)
    store.capacity_bytes = 1500
    told: list[Saved] = []
    writer = CheckpointWriter(FOLDER, 2, told.append, store=store)
    for step in (2, 3):
        assert writer.save(facts(step), {"w": np.zeros(1000, np.float32)}, {})
        assert writer.wait(5.0)
    assert [type(saved.error) for saved in told] == [StorageError, StorageError]
    assert check(store) == 1


class SlowStore(DiskStore):
    def write_atomic(self, path: Path, *buffers) -> None:
        time.sleep(0.05)
        super().write_atomic(path, *buffers)


def test_writes_the_values_of_the_moment_of_the_call(tmp_path):
    told: list[Saved] = []
    writer = CheckpointWriter(tmp_path, 3, told.append, store=SlowStore())
    live, moments = arrays(1), {"first.w": arrays(1)["w"] / 2}
    assert writer.save(facts(1), live, moments)
    for array in (*live.values(), *moments.values()):
        array.fill(-1)
    assert writer.busy
    assert not writer.save(facts(2), live, moments)
    assert writer.wait(5.0)
    assert told[0].error is None
    assert check(DiskStore(), tmp_path) == 1


WRITE_FOR_EVER = """
import sys
from pathlib import Path
import numpy as np
from isthmus.journal.store import DiskStore
from isthmus.spec.model import ModelSpec
from isthmus.train.checkpoint import Facts, prune, write_checkpoint
folder, step = Path(sys.argv[1]), int(sys.argv[2])
while True:
    step += 1
    facts = Facts(step=step, tokens=10 * step, progress=0.5, version=7, model=ModelSpec(), data="d",
                  feed={"next": step})
    w = np.full((3, 5), step, np.float32)
    b = np.arange(step, step + 4, dtype=np.float32)
    write_checkpoint(DiskStore(), folder, facts, {"w": w, "b": b}, {"first.w": w / 2})
    print(step, flush=True)
    prune(DiskStore(), folder, 2)
"""


def test_kill_9_at_random_instants(tmp_path):
    """What the killed process had acknowledged is there, or something newer, and it is sound."""
    draws = random.Random(5)
    last = 0
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path), str(last)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        acknowledged = int(child.stdout.readline())
        time.sleep(draws.uniform(0.0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().split(b"\n")[:-1]
        child.stdout.close()
        child.wait()
        acknowledged = int(rest[-1]) if rest else acknowledged
        last = check(DiskStore(), tmp_path)
        assert last in (acknowledged, acknowledged + 1)


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from isthmus.spec.model import ModelSpec
from isthmus.train.checkpoint import CheckpointWriter, Facts
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
def told(saved):
    print(saved.facts.step, type(saved.error).__name__)
writer = CheckpointWriter(Path(sys.argv[1]), 2, told)
for step, size in ((1, 100), (2, 10_000), (3, 100)):
    facts = Facts(step=step, tokens=0, progress=0.0, version=0, model=ModelSpec(), data="")
    writer.save(facts, {f"w{step}": np.zeros(size, np.float32)}, {})
    assert writer.wait(5.0)
"""


def test_a_real_refusal_of_the_file_system_is_survived(tmp_path):
    output = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert output.split("\n")[:3] == ["1 NoneType", "2 StorageError", "3 NoneType"]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    found, skipped = load_newest(DiskStore(), tmp_path)
    assert found is not None
    assert found.facts.step == 3
    assert skipped == []
