"""The benchmark of damaged checkpoints: a few of its cases, and that its oracle can say no."""

import random
from pathlib import Path

import pytest

from isthmus.journal.store import DiskStore
from isthmus.train.checkpoint import load_newest, write_checkpoint
from isthmus_bench.faults import corruption


@pytest.mark.parametrize("seed", range(1000, 1030))
def test_resumes_from_the_newest_intact_one(seed: int):
    assert corruption.resumes(seed)[0]


def test_draws_are_the_seeds_own_and_spare_the_oldest(tmp_path: Path):
    seen: list[dict[str, bytes]] = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        for step in corruption.STEPS:
            write_checkpoint(DiskStore(), folder, corruption.facts(step), *corruption.state(step))
        places = {step: corruption.files(folder, step) for step in corruption.STEPS}
        oldest = [path.read_bytes() for path in places[90]]
        corruption.hurt(random.Random(7), places)
        seen.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert [path.read_bytes() for path in places[90]] == oldest
    assert seen[0] == seen[1]


def test_another_checkpoint_is_not_taken_for_the_right_one(tmp_path: Path):
    write_checkpoint(DiskStore(), tmp_path, corruption.facts(100), *corruption.state(100))
    found, _ = load_newest(DiskStore(), tmp_path)
    assert found is not None
    assert corruption.is_exact(found, 100)
    assert not corruption.is_exact(found, 110)
