from pathlib import Path

import pytest

from isthmus.errors import NotFoundError
from isthmus.faults.inject.files import damage, flip_bits


def test_bits_of_the_newest_alone_and_the_same_ones_each_time(tmp_path: Path):
    names = ("step-000000009-aa.safetensors", "step-000000010-aa.safetensors", "step-000000011.json")
    for name in names:
        (tmp_path / name).write_bytes(bytes(100))
    assert damage("corrupt", tmp_path, 3.0) == "flipped 3 bits of step-000000010-aa.safetensors"
    hit = (tmp_path / names[1]).read_bytes()
    assert sum(byte.bit_count() for byte in hit) == 3
    assert all((tmp_path / name).read_bytes() == bytes(100) for name in (names[0], names[2]))
    again = tmp_path / "again"
    again.write_bytes(bytes(100))
    flip_bits(again, 3, seed=0)
    assert again.read_bytes() == hit


@pytest.mark.parametrize(("share", "left"), [(0.0, 50), (0.1, 90), (1.0, 0)])
def test_cut_short(tmp_path: Path, share: float, left: int):
    path = tmp_path / "step-000000009-aa.safetensors"
    path.write_bytes(bytes(100))
    damage("truncate", tmp_path, share)
    assert path.stat().st_size == left


def test_there_may_be_none(tmp_path: Path):
    with pytest.raises(NotFoundError):
        damage("corrupt", tmp_path, 0.0)
