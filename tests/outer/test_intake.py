import threading

import msgspec
import numpy as np
import pytest
import xxhash

from isthmus.outer.intake import Intake, intact
from isthmus.outer.messages import Contribution, Fragment, contribution_key

SIZES = [100, 64]


class Door:
    """An intake with what it has completed, and a site that can fill it."""

    def __init__(self):
        self.completed = []
        self.intake = Intake(SIZES, self.completed.append)

    def put(self, key, payload, site="a"):
        buffer = self.intake.allocate(site, key, payload.size)
        if buffer is None:
            return False
        buffer[:] = payload
        self.intake.blob(site, key, buffer)
        return True

    def push(self, contribution, site="a", fragments=(0, 1)):
        for index in fragments:
            self.put(contribution.fragments[index].key, payloads(contribution.seq)[index], site)
        return self.intake.commit(site, contribution)


@pytest.fixture
def door():
    return Door()


def payloads(seed: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, size, np.uint8) for size in SIZES]


def contribution(seq: int = 1, site: str = "a", incarnation: int = 7) -> Contribution:
    fragments = [
        Fragment(
            contribution_key(site, incarnation, seq, index), data.size, xxhash.xxh3_64_hexdigest(data.data)
        )
        for index, data in enumerate(payloads(seq))
    ]
    return Contribution(
        site=site,
        incarnation=incarnation,
        seq=seq,
        base_version=0,
        ranges=((0, 8),),
        tokens=8,
        steps=1,
        fragments=tuple(fragments),
    )


@pytest.mark.parametrize("order", [("f0", "f1", "commit"), ("commit", "f1", "f0"), ("f1", "commit", "f0")])
def test_complete_in_any_order_and_once(door: Door, order):
    push = contribution()
    for what in order:
        assert door.completed == []
        if what == "commit":
            assert door.intake.commit("a", push)
        else:
            index = int(what[1])
            assert door.put(push.fragments[index].key, payloads(1)[index])
    assert door.completed == [push]
    taken = door.intake.take(push)
    assert all(np.array_equal(got, wanted) for got, wanted in zip(taken, payloads(1), strict=True))
    assert intact(push, taken)


def test_a_commit_said_again_completes_again(door: Door):
    push = contribution()
    door.push(push)
    door.intake.commit("a", push)
    assert door.completed == [push, push]


@pytest.mark.parametrize(
    ("key", "size"),
    [
        ("up/b/7/1/0", 100),
        ("up/a/7/1/0", 99),
        ("up/a/7/1/1", 100),
        ("up/a/7/1/2", 64),
        ("up/a/7/1", 100),
        ("up/a/7/1/0/0", 100),
        ("up/a/7/x/0", 100),
        ("up/a/-7/1/0", 100),
        ("delta/1/1/0", 100),
        ("seed/0", 100),
    ],
)
def test_what_was_not_asked_for_gets_no_buffer(door: Door, key: str, size: int):
    assert door.intake.allocate("a", key, size) is None
    door.intake.blob("a", key, np.zeros(size, np.uint8))
    assert door.completed == []


@pytest.mark.parametrize(
    "change", [{"site": "b"}, {"fragments": ()}, {"seq": 2}, {"fragments": contribution().fragments[::-1]}]
)
def test_a_commit_that_does_not_fit_is_refused(door: Door, change: dict):
    assert not door.push(msgspec.structs.replace(contribution(), **change), fragments=())
    assert door.completed == []


def test_leftovers_of_dead_incarnations_hold_no_room(door: Door):
    for incarnation in range(7, 27):
        torn = contribution(incarnation=incarnation)
        assert door.put(torn.fragments[0].key, payloads(1)[0])
    last = contribution(incarnation=30)
    assert door.push(last)
    assert door.completed == [last]
    assert not door.put(contribution(incarnation=29).fragments[0].key, payloads(1)[0])


def test_many_discards_in_a_row_hold_no_room(door: Door):
    for seq in range(1, 20):
        push = contribution(seq)
        door.push(push)
        assert door.completed[-1] == push
        door.intake.drop("a", (7, seq))
        with pytest.raises(KeyError):
            door.intake.take(push)


def test_a_late_drop_leaves_the_next_one_alone(door: Door):
    door.push(contribution(1))
    door.push(contribution(2))
    door.intake.drop("a", (7, 1))
    assert len(door.intake.take(contribution(2))) == 2
    with pytest.raises(KeyError):
        door.intake.take(contribution(1))


def test_sites_do_not_disturb_each_other(door: Door):
    theirs = contribution(9, site="b")
    door.push(contribution(), fragments=(0,))
    door.push(theirs, site="b")
    assert door.completed == [theirs]
    assert door.put(contribution().fragments[1].key, payloads(1)[1])
    assert door.completed == [theirs, contribution()]


def test_damage_is_seen(door: Door):
    push = contribution()
    wrong = payloads(1)
    wrong[1][3] ^= 1
    assert not intact(push, wrong)
    assert not intact(push, [wrong[0], wrong[1][:-1]])


def test_threads_complete_it_once(door: Door):
    for seq in range(1, 50):
        push = contribution(seq)
        steps = [
            lambda push=push: door.push(push, fragments=(0,)),
            lambda push=push: door.put(push.fragments[1].key, payloads(push.seq)[1]),
        ]
        threads = [threading.Thread(target=step) for step in steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert door.completed == [push]
        door.completed.clear()
        door.intake.drop("a", (7, seq))
