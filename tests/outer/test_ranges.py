"""Range sets against Python's sets."""

from hypothesis import given
from hypothesis import strategies as st

from isthmus.outer import ranges

pieces = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)
sets = pieces.map(ranges.normal)


def members(some: ranges.Ranges) -> set[int]:
    return {index for start, end in some for index in range(start, end)}


def is_normal(some: ranges.Ranges) -> bool:
    flat = [edge for piece in some for edge in piece]
    return flat == sorted(set(flat))


@given(pieces)
def test_normal_keeps_the_members(some):
    joined = ranges.normal(some)
    assert is_normal(joined)
    assert members(joined) == {index for start, end in some for index in range(start, end)}
    assert ranges.total(joined) == len(members(joined))


@given(sets, sets)
def test_algebra_is_that_of_sets(left, right):
    for name, expected in (
        ("union", members(left) | members(right)),
        ("intersect", members(left) & members(right)),
        ("subtract", members(left) - members(right)),
    ):
        result = getattr(ranges, name)(left, right)
        assert is_normal(result)
        assert members(result) == expected
    assert ranges.covers(left, right) == (members(right) <= members(left))


@given(sets, st.integers(0, 50))
def test_take_splits_at_the_count(some, count):
    taken, rest = ranges.take(some, count)
    assert sorted(members(some)) == sorted(members(taken)) + sorted(members(rest))
    assert ranges.total(taken) == min(count, ranges.total(some))
