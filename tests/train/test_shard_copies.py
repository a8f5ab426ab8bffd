"""Four forked ranks, two on each node (a folder), whose shards differ."""

import os
import shutil
import signal

import numpy as np
import pytest

from isthmus.comm.local import run_ranks
from isthmus.errors import CheckFailedError
from isthmus.train.peer_copy import FACTS_BYTES
from isthmus.train.shard_copies import ShardCopies


def shard(rank: int, step: int) -> dict[str, np.ndarray]:
    draws = np.random.default_rng([rank, step])
    return {"model.w": draws.standard_normal((30 + rank, 70), np.float32), "optimizer.n": np.array(step)}


def copies(folder, group, per_node: int = 2) -> ShardCopies:
    node = folder / str(group.rank // per_node)
    node.mkdir(exist_ok=True)
    return ShardCopies(node, b"run", shard(group.rank, 0), group, per_node)


def write(folder, group, steps: int, per_node: int = 2) -> None:
    kept = copies(folder, group, per_node)
    for step in range(1, steps + 1):
        kept.save(step, b"%d of %d" % (step, group.rank), shard(group.rank, step))
    kept.finish()
    kept.close()


def restored(folder, group, per_node: int = 2) -> int:
    """The step that came back, bit for bit."""
    found = copies(folder, group, per_node).restore()
    if found is None:
        return -1
    assert found.facts == b"%d of %d" % (found.step, group.rank)
    expected = shard(group.rank, found.step)
    assert found.arrays.keys() == expected.keys()
    assert all(found.arrays[name].tobytes() == array.tobytes() for name, array in expected.items())
    return found.step


def test_with_all_there_every_rank_has_its_own(tmp_path):
    run_ranks(lambda group: write(tmp_path, group, 3), 4)
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == [
        f"state-{owner}-{owner}-of-4.copy" for owner in range(4)
    ]
    assert run_ranks(lambda group: restored(tmp_path, group), 4) == [3] * 4


@pytest.mark.parametrize("node", [0, 1])
def test_the_shards_of_a_lost_node_come_back_from_its_neighbour(tmp_path, node):
    run_ranks(lambda group: write(tmp_path, group, 3), 4)
    shutil.rmtree(tmp_path / str(node))
    assert run_ranks(lambda group: restored(tmp_path, group), 4) == [3] * 4
    assert run_ranks(lambda group: restored(tmp_path, group), 4) == [3] * 4


def test_with_both_of_a_pair_gone_there_is_nothing(tmp_path):
    run_ranks(lambda group: write(tmp_path, group, 3), 4)
    for node in "01":
        (tmp_path / node / "state-1-1-of-4.copy").unlink()
    assert run_ranks(lambda group: restored(tmp_path, group), 4) == [-1] * 4


def test_a_damaged_copy_is_replaced_by_its_twin(tmp_path):
    run_ranks(lambda group: write(tmp_path, group, 3, 1), 2)
    path = tmp_path / "0" / "state-0-0-of-2.copy"
    hurt = bytearray(path.read_bytes())
    hurt[4096 + 4096 + FACTS_BYTES + 100] ^= 1  # in the slot of steps 1 and 3
    path.write_bytes(hurt)
    assert run_ranks(lambda group: restored(tmp_path, group, 1), 2) == [3, 3]


def test_a_pair_member_killed_while_it_sends(tmp_path):
    """All stand at the same step again: one that every shard has somewhere."""

    def die_at_four(group):
        kept = copies(tmp_path, group, 1)
        for step in range(1, 9):
            kept.save(step, b"%d of %d" % (step, group.rank), shard(group.rank, step))
            if (step, group.rank) == (4, 1):
                os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(CheckFailedError):
        run_ranks(die_at_four, 2)
    shutil.rmtree(tmp_path / "1")
    steps = run_ranks(lambda group: restored(tmp_path, group, 1), 2)
    assert steps in ([3, 3], [4, 4])


def test_three_ranks_on_two_nodes(tmp_path):
    run_ranks(lambda group: write(tmp_path, group, 2), 3)
    shutil.rmtree(tmp_path / "0")
    assert run_ranks(lambda group: restored(tmp_path, group), 3) == [2] * 3
