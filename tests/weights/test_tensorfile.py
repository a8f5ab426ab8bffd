import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isthmus.errors import CorruptError
from isthmus.weights.tensorfile import pack, unpack

ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        lambda name: name != "__metadata__"
    ),
    hnp.arrays(st.sampled_from([np.float32, np.int64, np.uint8]), hnp.array_shapes(min_dims=0, max_side=4)),
    max_size=4,
)


def joined(buffers: list[memoryview]) -> memoryview:
    return memoryview(b"".join(buffers))


@given(ARRAYS)
def test_comes_back_as_it_went(arrays):
    found = unpack(joined(pack(arrays, {"step": "3"})), "here")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_is_the_library_format_both_ways():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.int64)}
    theirs = safetensors.numpy.load(bytes(joined(pack(arrays))))
    ours = unpack(memoryview(safetensors.numpy.save(arrays)), "here")
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array)
        np.testing.assert_array_equal(ours[name], array)


def test_bodies_are_the_arrays_own_memory():
    array = np.zeros(4, np.float32)
    body = pack({"a": array})[1]
    array[0] = 1.0
    assert np.frombuffer(body, np.float32)[0] == 1.0


@given(st.integers(0, 79))
def test_a_torn_file_is_named(cut):
    whole = joined(pack({"a": np.arange(4, dtype=np.float32)}))
    with pytest.raises(CorruptError, match="here"):
        unpack(whole[:cut], "here")
