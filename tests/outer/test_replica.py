import math

import numpy as np
import pytest

from isthmus.errors import CorruptError
from isthmus.outer.bridge import Vectors
from isthmus.outer.layout import build_layout
from isthmus.outer.merge import MasterState, Push, Rule, merge, publish
from isthmus.outer.replica import Replica
from isthmus.outer.weights import Share
from isthmus.wire import codecs

LAYOUT = build_layout([("w", (37, 11)), ("b", (129,)), ("v", (64, 8))], {}, 3)
BLOCK = 16
CODECS = ["fp32", "bf16", "int8", "int4"]


@pytest.fixture
def vectors():
    shared = Vectors.make(LAYOUT.size)
    yield shared
    shared.remove()


def floats(seed: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(LAYOUT.size)).astype(np.float32)


def make(vectors: Vectors, codec: str, down_codec: str = "int8") -> Replica:
    replica = Replica(LAYOUT, vectors, codec, down_codec, BLOCK)
    replica.install([view.view(np.uint8) for view in LAYOUT.views(floats(0))], full=True)
    replica.offer(None)
    replica.taken()
    return replica


def train(vectors: Vectors, seed: int) -> np.ndarray:
    """The ranks move; returns the exact pseudo-gradient."""
    vectors.snapshot[:] = vectors.reference + floats(seed, 0.01)
    return vectors.reference - vectors.snapshot


def decoded(codec: str, payloads: list[np.ndarray]) -> np.ndarray:
    sizes = LAYOUT.fragment_sizes
    return np.concatenate(
        [codecs.decode(codec, payload, n, BLOCK) for payload, n in zip(payloads, sizes, strict=True)]
    )


@pytest.mark.parametrize("codec", CODECS)
def test_a_push_says_what_it_holds(vectors: Vectors, codec: str):
    replica = make(vectors, codec)
    delta = train(vectors, 1)
    norm, fragments = replica.encode("a", 3, 1)
    assert [fragment.key for fragment in fragments] == ["up/a/3/1/0", "up/a/3/1/1", "up/a/3/1/2"]
    assert [fragment.size for fragment in fragments] == [payload.size for payload in replica.payloads]
    sent = decoded(codec, replica.payloads)
    assert norm == pytest.approx(float(np.linalg.norm(sent.astype(np.float64))), rel=1e-6)
    assert np.linalg.norm(sent - delta) < 0.1 * np.linalg.norm(delta)
    assert np.array_equal(vectors.reference, vectors.snapshot)


@pytest.mark.parametrize("codec", CODECS)
def test_error_feedback_makes_up_for_what_was_lost(vectors: Vectors, codec: str):
    replica = make(vectors, codec)
    wanted, sent = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size)
    for seq in range(1, 40):
        delta = train(vectors, seq)
        wanted += delta
        replica.encode("a", 1, seq)
        sent += decoded(codec, replica.payloads)
        replica.forget(seq, discarded=False)
    assert np.abs(wanted - sent).max() < 2 * np.abs(delta).max()


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_a_discarded_push_gives_its_error_feedback_back(vectors: Vectors, codec: str):
    replica, other = make(vectors, codec), []
    train(vectors, 1)
    replica.encode("a", 1, 1)
    replica.forget(1, discarded=False)
    standing = vectors.reference.copy()
    for discarded_first in (False, True):
        if discarded_first:
            train(vectors, 2)
            replica.encode("a", 1, 2)
            replica.forget(2, discarded=True)
            vectors.reference[:] = standing
        train(vectors, 3)
        replica.encode("a", 1, 3)
        other.append(np.concatenate(replica.payloads))
        replica.forget(3, discarded=True)
        vectors.reference[:] = standing
    assert np.array_equal(other[0], other[1])


def test_a_fate_heard_twice_or_of_another_push_changes_nothing(vectors: Vectors):
    replica = make(vectors, "int8")
    train(vectors, 1)
    replica.encode("a", 1, 1)
    payloads = replica.payloads
    replica.forget(9, discarded=True)
    assert replica.payloads is payloads
    replica.forget(1, discarded=False)
    replica.forget(1, discarded=True)
    vectors.snapshot[:] = vectors.reference
    norm, _ = replica.encode("a", 1, 2)
    assert norm > 0


def test_a_push_that_is_not_finite_says_so_and_spoils_nothing(vectors: Vectors):
    replica = make(vectors, "int8")
    before = train(vectors, 1)
    vectors.snapshot[5] = np.nan
    norm, _ = replica.encode("a", 1, 1)
    assert math.isnan(norm)
    replica.forget(1, discarded=True)
    replica.offer(None)
    replica.taken()
    assert np.isfinite(vectors.reference).all()
    vectors.snapshot[:] = vectors.reference - before
    norm, _ = replica.encode("a", 1, 2)
    assert norm == pytest.approx(float(np.linalg.norm(before)), rel=0.02)


@pytest.mark.parametrize("codec", CODECS)
def test_the_offer_leaves_out_what_is_in_flight(vectors: Vectors, codec: str):
    replica = make(vectors, codec)
    published = vectors.base.copy()
    train(vectors, 1)
    replica.encode("a", 1, 4)
    replica.offer(4)
    wanted = published - decoded(codec, replica.payloads)
    assert np.allclose(vectors.base, wanted, atol=1e-6)
    replica.offer(3)
    assert np.array_equal(vectors.base, published)
    replica.forget(4, discarded=False)
    replica.offer(4)
    assert np.array_equal(vectors.base, published)


@pytest.mark.parametrize("down", CODECS)
def test_deltas_and_full_versions_are_the_servers_bits(vectors: Vectors, down: str):
    master = MasterState.from_flat(LAYOUT, floats(0))
    behind = make(vectors, "int8", down)
    for version in range(1, 5):
        payloads = [codecs.encode("int8", part, BLOCK) for part in LAYOUT.views(floats(version, 0.1))]
        merge(
            master,
            [Push(Share(site="a", tokens=8, staleness=0, group_tokens=()), payloads)],
            Rule(block=BLOCK),
        )
        done = publish(master, down, BLOCK)
        assert behind.install(done.payloads, full=False) == done.hash == master.hash
    full = [part.copy().view(np.uint8) for part in master.published]
    assert make(vectors, "int8", down).install(full, full=True) == master.hash
    behind.offer(None)
    assert np.array_equal(vectors.base, np.concatenate(master.published))


def test_a_version_of_another_size_is_damage(vectors: Vectors):
    replica = make(vectors, "int8")
    with pytest.raises(CorruptError):
        replica.install([np.zeros(3, np.uint8)] * 3, full=False)
