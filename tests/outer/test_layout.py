import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import InputError
from isthmus.outer.layout import Layout, build_layout, choose_num_fragments


def language_model(
    layers: int = 12, width: int = 64, vocabulary: int = 4000
) -> list[tuple[str, tuple[int, ...]]]:
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("embed", (vocabulary, width)),
        ("head", (vocabulary, width)),
    ]
    for layer in range(layers):
        shapes += [(f"{layer}.norm", (width,)), (f"{layer}.qkv", (3 * width, width))]
        shapes += [(f"{layer}.e{e}.up", (2 * width, width)) for e in range(4)]
    return shapes


GROUPS = {f"{layer}.e{e}.up": 4 * layer + e for layer in range(12) for e in range(4)}


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(1, 40), max_size=3), min_size=1, max_size=30), st.integers(1, 12))
def test_every_value_has_one_place(shapes: list[list[int]], num_fragments: int):
    named = [(f"t{number}", tuple(shape)) for number, shape in enumerate(shapes)]
    groups = {name: number % 5 for number, (name, _) in enumerate(named) if number % 3}
    layout = build_layout(named, groups, num_fragments)
    assert layout.size == sum(int(np.prod(shape)) for shape in shapes) == sum(layout.fragment_sizes)
    assert layout.num_fragments == min(num_fragments, layout.size)
    tensors = {n: np.random.default_rng(k).normal(size=s).astype("f4") for k, (n, s) in enumerate(named)}
    flat = np.full(layout.size, np.nan, np.float32)
    layout.pack(tensors, flat)
    for name, tensor in layout.unpack(flat).items():
        assert tensor.shape == tensors[name].shape
        assert np.array_equal(tensor, tensors[name])
    assert [view.size for view in layout.views(flat)] == list(layout.fragment_sizes)
    offset = 0
    for number, view in enumerate(layout.views(flat)):
        bounds, groups_there = layout.segments(number)
        assert bounds[0, 0] == 0
        assert bounds[-1, 1] == view.size
        assert (bounds[1:, 0] == bounds[:-1, 1]).all()
        for name, start, at, length in layout.pieces():
            if offset <= at < offset + view.size:
                (segment,) = np.flatnonzero((bounds[:, 0] <= at - offset) & (at - offset < bounds[:, 1]))
                assert groups_there[segment] == groups.get(name, -1)
                assert np.array_equal(
                    flat[at : at + length], tensors[name].reshape(-1)[start : start + length]
                )
        offset += view.size


def test_fragments_are_balanced_even_with_huge_embeddings():
    for num_fragments in (1, 3, 8, 16):
        sizes = build_layout(language_model(vocabulary=50_000), GROUPS, num_fragments).fragment_sizes
        assert len(sizes) == num_fragments
        assert max(sizes) <= 1.1 * sum(sizes) / num_fragments


def test_a_group_is_one_segment_of_its_fragment():
    layout = build_layout(language_model(), GROUPS, 4)
    for number in range(4):
        groups = layout.segments(number).groups.tolist()
        assert groups == sorted(set(groups))


def test_same_shapes_same_hash_other_shapes_another():
    layout = build_layout(language_model(), GROUPS, 4)
    assert layout.hash == build_layout(language_model(), dict(reversed(GROUPS.items())), 4).hash
    assert layout.hash == msgspec.msgpack.decode(msgspec.msgpack.encode(layout), type=Layout).hash
    others = [
        build_layout(language_model(width=65), GROUPS, 4),
        build_layout(language_model(), {}, 4),
        build_layout(language_model(), GROUPS, 5),
    ]
    assert len({layout.hash, *(other.hash for other in others)}) == 4


def test_number_of_fragments_follows_the_size():
    assert choose_num_fragments(1000) == 4
    assert choose_num_fragments(13 * 10**9) == 64
    assert build_layout([("a", (1 << 20,))], {}).num_fragments == 4
    assert build_layout([("a", (2,)), ("b", ())], {}).fragment_sizes == (1, 1, 1)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="no parameters"):
        build_layout([("a", (0, 3))], {})
    with pytest.raises(InputError, match="two tensors are called 'a'"):
        build_layout([("a", (1,)), ("a", (2,))], {})
    with pytest.raises(InputError, match="'b', which is no tensor"):
        build_layout([("a", (1,))], {"b": 0})
