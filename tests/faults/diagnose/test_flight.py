"""Who holds the others up, from records made by hand."""

from collections.abc import Sequence

from isthmus.faults.diagnose.dumps import Dump, Op
from isthmus.faults.diagnose.flight import analyse

WORLD = (0, 1, 2, 3)
GROUPS = {"0": WORLD, "tp0": (0, 1), "tp1": (2, 3), "dp0": (0, 2), "dp1": (1, 3)}


def op(
    group: str,
    seq: int,
    name: str = "all_reduce",
    shape: str = "[[4]]",
    *,
    done: bool = False,
    p2p: bool = False,
):
    return Op(group=group, seq=seq, name=name, shape=shape, done=done, p2p=p2p, created_ns=seq)


def dump(rank: int, *ops: Op, status: dict[str, tuple[int, int]] | None = None) -> Dump:
    mine = {name: ranks for name, ranks in GROUPS.items() if rank in ranks}
    return Dump(
        rank=rank, where=f"_dump_{rank}", groups=mine, labels={name: name for name in mine},
        status=status or {}, ops=tuple(ops),
    )  # fmt: skip


def _culprits(dumps: Sequence[Dump]) -> tuple[int, ...]:
    found = analyse(dumps)
    assert found
    return found.culprits


def test_a_rank_that_did_not_enter_is_named():
    dumps = [dump(rank, op("0", 9)) for rank in (0, 1, 3)]
    found = analyse([*dumps, dump(2, status={"0": (8, 8)})])
    assert found
    assert (found.kind, found.culprits, found.waiting) == ("hang", (2,), (0, 1, 3))
    assert "8" in found.facts[2]


def test_a_rank_whose_device_stands_is_named_though_it_entered_as_much():
    others = [dump(rank, status={"0": (9, 9)}) for rank in (0, 1, 3)]
    assert _culprits([*others, dump(2, op("0", 7), op("0", 8), op("0", 9))]) == (2,)


def test_who_is_behind_because_it_waits_elsewhere_is_explained():
    """Rank 3 stands. 2 waits for it in tp1 and is late in dp0, where 0 waits for it; 1 waits for 0 in tp0."""
    dumps = [
        dump(0, op("dp0", 5), status={}),
        dump(1, op("tp0", 7)),
        dump(2, op("tp1", 4), op("dp0", 4, done=True)),
        dump(3, op("tp1", 3, done=True)),
    ]
    dumps[0] = dump(0, op("dp0", 5), op("tp0", 6, done=True))
    assert _culprits(dumps) == (3,)


def test_two_that_stand_at_once_are_both_named():
    dumps = [
        dump(0, op("tp0", 5), op("0", 3, done=True)),
        dump(1, op("tp0", 4, done=True), op("0", 3, done=True)),
        dump(2, op("tp1", 4, done=True), op("0", 3, done=True)),
        dump(3, op("tp1", 5), op("0", 3, done=True)),
    ]
    assert set(_culprits(dumps)) == {1, 2}


def test_a_rank_without_a_record_for_whom_all_wait_is_named():
    assert _culprits([dump(rank, op("0", 9)) for rank in (0, 1, 2)]) == (3,)


def test_another_operation_at_the_same_place_is_a_desync():
    dumps = [dump(rank, op("0", 9)) for rank in (0, 1, 3)]
    found = analyse([*dumps, dump(2, op("0", 9, "broadcast"))])
    assert found
    assert (found.kind, found.culprits) == ("desync", (2,))


def test_other_sizes_are_a_desync_where_they_have_to_agree():
    dumps = [dump(rank, op("0", 9)) for rank in (0, 1, 3)]
    found = analyse([*dumps, dump(2, op("0", 9, shape="[[5]]"))])
    assert found
    assert (found.kind, found.culprits) == ("desync", (2,))
    uneven = [dump(rank, op("0", 9, "all_to_all", f"[[{rank}]]")) for rank in WORLD]
    assert analyse(uneven) is None


def test_of_two_that_differ_none_is_blamed():
    found = analyse([dump(0, op("tp0", 9)), dump(1, op("tp0", 9, "broadcast"))])
    assert found
    assert (found.kind, found.culprits) == ("desync", ())


def test_a_message_to_one_that_does_nothing_names_it():
    dumps = [
        dump(0, op("tp0", 3, "send 0->1", p2p=True)),
        dump(1, op("tp0", 3, "recv 1<-0", p2p=True, done=True)),
    ]
    assert _culprits(dumps) == (1,)


def test_a_circle_names_nobody():
    dumps = [
        dump(0, op("tp0", 5), op("dp0", 4, done=True)),
        dump(1, op("dp1", 5), op("tp0", 4, done=True)),
        dump(3, op("tp1", 5), op("dp1", 4, done=True)),
        dump(2, op("dp0", 5), op("tp1", 4, done=True)),
    ]
    found = analyse(dumps)
    assert found
    assert found.culprits == ()


def test_all_done_is_no_fault():
    assert analyse([dump(rank, op("0", 9, done=True)) for rank in WORLD]) is None
    assert analyse([]) is None
