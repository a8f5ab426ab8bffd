"""The planner against Metis, a published layout, and the clock: what the figures are made of."""

import itertools

import numpy as np
import pytest

from isthmus.errors import NotFoundError
from isthmus.planner.belief.file import shipped_posterior
from isthmus.planner.published.case import case_of
from isthmus.planner.published.query import query_of
from isthmus.planner.split import score
from isthmus_bench import planner
from isthmus_bench.plan_process import CASES, LARGE
from isthmus_bench.planner import metis, skywork
from isthmus_bench.planner.metis import Profile
from isthmus_bench.targets import target_of

LAYER_MS = {"A100": 30.0, "T4": 120.0}


def profile(kind, tp, size):
    compute_ms = np.array([0.3, *[LAYER_MS[kind] * size / tp * (1 + 0.1 * (tp - 1))] * 8, 0.4])
    return Profile(
        compute_ms=compute_ms,
        memory_mib=np.array([2000.0, *[1000.0] * 8, 3000.0]) / tp * (1 + 0.2 * size),
        sync_ms=2.0 * size,
        generate_ms=0.9,
        parameter_bytes=np.array([4e8, *[2e8] * 8, 4e8]),
        update_ms=80.0,
    )


@pytest.fixture
def profiles():
    return {key: profile(*key) for key in itertools.product(LAYER_MS, (1, 2, 4), (1, 2, 4))}


def test_no_pipeline_from_the_profiles_is_cheaper(profiles):
    """All cuts of all pipelines of two stages."""
    ours = metis.plan(profiles)
    least = float("inf")
    for pipe in metis.pipes(profiles):
        if len(pipe.kinds) > 2:
            continue
        problem = metis.problem_of(pipe, profiles)
        for ends in itertools.combinations(range(1, 8), len(pipe.kinds) - 1):
            cut = score(problem, [*ends, 8])
            if cut is not None:
                least = min(least, metis._cost_ms(pipe, cut, profiles))
    sizes = np.diff(ours.ends)
    assert sizes.sum() == 10
    assert (sizes > 0).all()
    assert sum(ours.groups) == 16
    assert all(dp * tp == chips for (dp, tp), chips in zip(ours.strategies, ours.groups, strict=True))
    assert our_cost(ours, profiles) <= least * 1.01


def our_cost(ours, profiles):
    """Of the plan that was chosen, found again among all pipelines."""
    ends = np.minimum(np.array(ours.ends[1:]) - 1, 8)
    alike = [
        pipe
        for pipe in metis.pipes(profiles)
        if list(pipe.chips) == ours.groups
        and list(dict.fromkeys(pipe.kinds)) == ours.types
        and [tp for _, tp in ours.strategies] == list(pipe.tp)
        and pipe.batches == ours.batches
    ]
    assert len(alike) == 1
    cut = score(metis.problem_of(alike[0], profiles), ends)
    assert cut is not None
    return metis._cost_ms(alike[0], cut, profiles)


def test_memory_limits_a_stage(profiles):
    ours = metis.plan(profiles)
    kinds = [kind for kind in ours.types for _ in range(8)]
    at = 0
    for chips, (dp, tp), first, end in zip(
        ours.groups, ours.strategies, ours.ends[:-1], ours.ends[1:], strict=True
    ):
        kind, size = kinds[at], 128 // ours.batches // dp
        held = metis.MEMORY_TIMES * profiles[kind, tp, size].memory_mib[first:end].sum()
        assert held <= 1024 * metis.MEMORY_GIB[kind] * chips
        at += chips


def test_without_a_checkout_it_says_which(monkeypatch, tmp_path):
    monkeypatch.delenv(metis.VARIABLE, raising=False)
    with pytest.raises(NotFoundError, match="Metis") as caught:
        metis.checkout()
    assert metis.VARIABLE in caught.value.hint
    monkeypatch.setenv(metis.VARIABLE, str(tmp_path))
    with pytest.raises(NotFoundError):
        metis.checkout()


def test_a_part_without_its_rival_is_left_out(monkeypatch, capsys):
    def absent(quick):
        raise NotFoundError("no rival", hint="get one")

    monkeypatch.setattr(planner, "FAMILIES", (absent, lambda quick: []))
    assert planner.run(quick=True) == []
    assert "left out" in capsys.readouterr().err


def factors():
    case = case_of(skywork.ROW)
    assert not isinstance(case, str)
    return shipped_posterior().factors(query_of(case).groups)


def test_the_published_layout_is_one_of_those_that_are_ranked():
    case = case_of(skywork.ROW)
    assert not isinstance(case, str)
    layout = case.layout
    assert (layout.tp, layout.pp, layout.ep, layout.expert_tp, layout.dp) == (4, 12, 4, 1, 32)
    assert layout.num_chips == skywork.CHIPS
    result = skywork.ranks(factors(), (1024,))
    assert 1 <= result.value <= 3
    assert "1024 sequences" in result.note


def test_the_papers_split_is_ours():
    split, gain = skywork.splits(factors())
    assert split.value == 1
    assert gain.value > 0.05


def test_the_large_fleet_is_what_its_target_says():
    chips = [
        node.count * count
        for each in LARGE.sites.values()
        for node in each.nodes
        for count in node.chips.values()
    ]
    kinds = {kind for each in LARGE.sites.values() for node in each.nodes for kind in node.chips}
    assert (sum(chips), len(kinds), len(LARGE.sites)) == (18_000, 4, 3)
    assert all(case.run.data.seq_len == 8192 for case in CASES.values())


@pytest.mark.parametrize(
    "name",
    [
        "scale.seconds",
        "scale.gap",
        "scale.512",
        "metis.cost",
        "metis.speed",
        "skywork.rank",
        "skywork.throughput",
    ],
)
def test_each_figure_has_a_target(name):
    assert target_of(f"planner.{name}") is not None
