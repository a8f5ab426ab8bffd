"""The store in which the members of a generation find each other."""

from datetime import timedelta
from types import SimpleNamespace

from isthmus.comm.posted_store import PostedStore


def store_on(pairs: dict[str, bytes]) -> PostedStore:
    lifeline = SimpleNamespace(
        post=lambda generation, key, value: pairs.update({key: value}),
        posted=lambda generation, key, timeout_s: pairs[key],
        is_posted=pairs.__contains__,
    )
    return PostedStore(lifeline, generation=3, timeout_s=1.0)  # pyright: ignore[reportArgumentType]


def test_processes_meet_that_have_tried_to_make_unequally_many_groups():
    pairs: dict[str, bytes] = {}
    veteran, fresh = store_on(pairs), store_on(pairs)
    veteran.set("12//cpu//0/1", b"here")
    fresh.wait(["0//cpu//0/1"], timedelta(seconds=1))
    assert fresh.check(["0//cpu//0/1"])
    assert fresh.multi_get(["0//cpu//0/1"]) == [b"here"]


def test_keys_without_a_number_stay_as_they_are():
    pairs: dict[str, bytes] = {}
    store_on(pairs).set("cpu/1", "value")
    assert pairs == {"cpu/1": b"value"}
