import math

import numpy as np
import pytest

from isthmus.errors import CorruptError, InputError
from isthmus.outer.layout import Layout, build_layout
from isthmus.outer.merge import MasterState, Push, Rule, hash_fragments, merge, norm, publish
from isthmus.outer.weights import Share, merge_weights
from isthmus.wire import codecs

F32 = np.float32
LR, BETA = F32(0.7), F32(0.9)
SHAPES = [("embed", (50, 7)), ("dense", (33,)), ("expert0", (40, 5)), ("expert1", (40, 5))]
LAYOUT = build_layout(SHAPES, {"expert0": 0, "expert1": 1}, 3)
FP32 = Rule(codec="fp32")


def start(layout: Layout = LAYOUT, seed: int = 0) -> tuple[MasterState, np.ndarray]:
    flat = np.random.default_rng(seed).normal(size=layout.size).astype(F32)
    return MasterState.from_flat(layout, flat), flat


def deltas(seed: int, count: int) -> list[np.ndarray]:
    return [d.astype(F32) for d in np.random.default_rng(seed).normal(size=(count, LAYOUT.size))]


def push(delta: np.ndarray, share: Share, codec: str = "fp32") -> Push:
    return Push(share, [codecs.encode(codec, view, 128) for view in LAYOUT.views(delta)])


def dense(site: str, tokens: int = 100, staleness: int = 0) -> Share:
    return Share(site=site, tokens=tokens, staleness=staleness)


def flat(fragments: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(fragments)


def oracle(m: np.ndarray, u: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """torch.optim.SGD(lr, momentum, nesterov=True), written down."""
    u = BETA * u + g
    return m - LR * (g + BETA * u), u


@pytest.mark.parametrize("threads", [1, 3])
def test_full_quorum_is_nesterov_bit_for_bit(threads: int):
    state, m = start()
    u = np.zeros_like(m)
    for step in range(20):
        a, b = deltas(step, 2)
        merge(state, [push(a, dense("a")), push(b, dense("b"))], FP32, threads)
        m, u = oracle(m, u, F32(0.5) * a + F32(0.5) * b)
        assert flat(state.master).tobytes() == m.tobytes()
        assert flat(state.momentum).tobytes() == u.tobytes()
    assert not any(fragment.any() for fragment in state.waiting)


def test_a_site_alone_is_taken_exactly_and_quantised_as_it_decodes():
    for codec in ("fp32", "bf16", "int8", "int4"):
        state, m = start()
        (d,) = deltas(1, 1)
        one = push(d, dense("a", tokens=37, staleness=3), codec)
        views = LAYOUT.views(d)
        decoded = [codecs.decode(codec, p, v.size, 128) for p, v in zip(one.payloads, views, strict=True)]
        merge(state, [one], Rule(codec=codec))
        m, _ = oracle(m, np.zeros_like(m), flat(decoded))
        assert flat(state.master).tobytes() == m.tobytes()
        assert norm(Rule(codec=codec), one.payloads, LAYOUT.fragment_sizes) == pytest.approx(
            np.linalg.norm(flat(decoded)), rel=1e-6
        )


def test_below_quorum_is_delayed_nesterov():
    """Its recursion (arXiv 2401.09135, algorithm 3 with c = 0) for shares that fill up after three pushes."""
    state, m = start()
    u, acc = np.zeros_like(m), np.zeros_like(m)
    rule = Rule(codec="fp32", share=1 / 3)
    third = F32(1 / 3)
    for step in range(9):
        (d,) = deltas(step, 1)
        merge(state, [push(d, dense("a"))], rule)
        m = m - LR * (third * d)
        acc = acc + third * d
        if step % 3 == 2:
            u = BETA * u + acc
            m = m - LR * (BETA * u)
            acc = np.zeros_like(acc)
        assert flat(state.master).tobytes() == m.tobytes()
        assert flat(state.waiting).tobytes() == acc.tobytes()
        assert flat(state.momentum).tobytes() == u.tobytes()
    assert state.progress == 0


def test_a_full_quorum_takes_what_waits_with_it():
    state, m = start()
    a, b = deltas(3, 2)
    merge(state, [push(a, dense("a"))], Rule(codec="fp32", share=0.5))
    merge(state, [push(b, dense("a"))], FP32)
    u = F32(0.5) * a + b
    wanted = m - LR * (F32(0.5) * a) - LR * b - LR * (BETA * u)
    assert np.allclose(flat(state.master), wanted, atol=1e-6)
    assert np.array_equal(flat(state.momentum), u)
    assert state.progress == 0
    assert not flat(state.waiting).any()


def test_a_short_round_does_not_coast_on_the_momentum_of_whole_ones():
    """Three rounds of a quarter of the usual tokens and one of half: momentum comes when a whole is in."""
    state, m = start()
    u = np.zeros_like(m)
    for step in range(3):
        (d,) = deltas(step, 1)
        merge(state, [push(d, dense("a", tokens=400))], FP32)
        m, u = oracle(m, u, d)
    acc = np.zeros_like(m)
    for step, tokens in ((3, 100), (4, 100), (5, 100)):
        (d,) = deltas(step, 1)
        merge(state, [push(d, dense("a", tokens=tokens))], FP32)
        m, acc = m - LR * d, acc + d
        assert flat(state.master).tobytes() == m.tobytes()
        assert flat(state.momentum).tobytes() == u.tobytes()
    assert 0.75 <= state.progress < 1
    (d,) = deltas(6, 1)
    merge(state, [push(d, dense("a", tokens=200))], FP32)
    u = BETA * u + (acc + d)
    m = m - LR * d - LR * (BETA * u)
    assert np.allclose(flat(state.master), m, atol=1e-6)
    assert np.array_equal(flat(state.momentum), u)
    assert state.progress == 0


def test_a_round_without_a_third_site_is_not_short():
    state, _ = start()
    (d,) = deltas(0, 1)
    merge(state, [push(d, dense(name, tokens=100)) for name in "abc"], FP32)
    merge(state, [push(d, dense("a", tokens=100))], Rule(codec="fp32", share=1 / 3))
    assert state.progress == pytest.approx(1 / 3)
    assert state.usual_tokens == pytest.approx(300)


def test_sgd_has_no_momentum():
    state, m = start()
    (d,) = deltas(4, 1)
    merge(state, [push(d, dense("a"))], Rule(codec="fp32", optimizer="sgd", lr=1.0))
    assert np.array_equal(flat(state.master), m - d)
    merge(state, [push(d, dense("a"))], Rule(codec="fp32", optimizer="sgd", lr=1.0, share=0.5))
    assert np.array_equal(flat(state.master), m - d - F32(0.5) * d)
    assert not flat(state.momentum).any()
    assert state.progress == 0


def test_experts_follow_the_tokens_routed_to_them():
    state, m = start()
    a, b = deltas(5, 2)
    shares = [
        Share(site="a", tokens=100, group_tokens=(30, 0)),
        Share(site="b", tokens=300, group_tokens=(10, 0)),
    ]
    merge(state, [push(a, shares[0]), push(b, shares[1])], FP32)
    before, after = LAYOUT.unpack(m), LAYOUT.unpack(flat(state.master))
    da, db = LAYOUT.unpack(a), LAYOUT.unpack(b)
    for name, share in (("embed", 0.25), ("dense", 0.25), ("expert0", 0.75)):
        g = F32(share) * da[name] + F32(1 - share) * db[name]
        wanted, _ = oracle(before[name], np.zeros_like(g), g)
        assert after[name].tobytes() == wanted.tobytes(), name
    assert after["expert1"].tobytes() == before["expert1"].tobytes()
    assert not LAYOUT.unpack(flat(state.momentum))["expert1"].any()


def test_an_expert_without_tokens_does_not_coast_on_its_momentum():
    state, _ = start()
    for step, share in enumerate([1.0, 0.5, 0.5]):
        (d,) = deltas(step, 1)
        tokens = (1, 1) if step == 0 else (1, 0)
        before = LAYOUT.unpack(flat(state.master))["expert1"]
        merge(
            state, [push(d, Share(site="a", tokens=9, group_tokens=tokens))], Rule(codec="fp32", share=share)
        )
        after = LAYOUT.unpack(flat(state.master))["expert1"]
        assert np.array_equal(before, after) == (step > 0)
    assert state.progress == 0


def test_weights():
    shares = [dense("a", 100), dense("b", 300, staleness=3)]
    assert merge_weights(shares, 0).tolist() == [[F32(100 / 250)], [F32(150 / 250)]]
    twice = merge_weights([dense("a", 100), dense("a", 100), dense("b", 200)], 0)
    assert twice[:, 0].tolist() == [0.5, 0.5, 0.5]
    unknown = merge_weights([Share(site="a", tokens=1, group_tokens=(5,)), dense("b", 3)], 1)
    assert unknown.tolist() == [[0.25, 0.25], [0.75, 0.75]]
    for tokens in (1, 3, 7, 10**12 + 1):
        assert merge_weights([dense("a", tokens, staleness=2)], 0)[0, 0] == 1
    with pytest.raises(InputError, match="2 expert groups, the model has 3"):
        merge_weights([Share(site="a", tokens=1, group_tokens=(1, 2))], 3)


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "int4"])
def test_sites_and_server_publish_the_same_bits(codec: str):
    state, m = start()
    site = [view.copy() for view in LAYOUT.views(m)]
    for step in range(10):
        (d,) = deltas(step, 1)
        merge(state, [push(F32(0.01) * d, dense("a"))], FP32)
        publication = publish(state, codec, 128, threads=2)
        for payload, fragment in zip(publication.payloads, site, strict=True):
            codecs.take_up(codec, payload, 128, fragment)
        assert publication.finite
        assert publication.version == state.version == step + 1
        assert hash_fragments(site) == publication.hash == state.hash
    gap = np.abs(flat(state.master) - flat(state.published)).max()
    assert gap == 0 if codec == "fp32" else gap < 0.02


def test_a_merge_repeated_from_its_payloads_gives_the_same_version():
    hashes = set()
    for threads in (1, 2):
        state, _ = start()
        for step in range(4):
            a, b = deltas(step, 2)
            pushes = [push(a, dense("a", 3), "int8"), push(b, dense("b", 5), "int8")]
            merge(state, pushes, Rule(share=1.0 if step % 2 else 0.4), threads)
            hashes.add((step, publish(state, "int8", 128, threads).hash))
    assert len(hashes) == 4


def test_a_payload_of_the_wrong_size_changes_nothing():
    state, m = start()
    (d,) = deltas(0, 1)
    good = push(d, dense("a"))
    bad = Push(dense("b"), [*good.payloads[:-1], good.payloads[-1][:-1]])
    with pytest.raises(CorruptError):
        merge(state, [good, bad], FP32)
    assert np.array_equal(flat(state.master), m)


def test_norm_of_a_poisoned_payload_is_not_finite():
    (d,) = deltas(0, 1)
    payloads = push(d, dense("a")).payloads
    payloads[0].view("<f4")[3] = np.inf
    assert not math.isfinite(norm(FP32, payloads, LAYOUT.fragment_sizes))
