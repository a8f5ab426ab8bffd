"""Scores keep the rows' order, say why a row has none, and move with calibration."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import InputError
from isthmus.planner.published.rows import Row, parse_rows
from isthmus.planner.published.score import score_rows

HEADER = (
    "id,source,model,chip,n_chips,tp,pp,dp,micro_batch,global_batch,seq,precision,recompute,"
    "tokens_per_s_per_chip\n"
)
KNOWN = "a,Own system,Llama3-8B,h100,8,1,1,8,1,64,8192,bf16,none,7000\n"
LARGER = "b,Own system,Llama3-70B,h100,64,4,4,4,1,256,8192,bf16,none,\n"
STRANGE = "c,Own system,Nobody-1,h100,8,1,1,8,1,64,8192,bf16,none,\n"
UNKNOWN_CHIP = "d,Own system,Llama3-8B,h1000,8,1,1,8,1,64,8192,bf16,none,\n"


def test_scores_are_in_the_rows_order_with_an_interval_around_the_middle():
    rows = parse_rows(HEADER + STRANGE + LARGER + UNKNOWN_CHIP + KNOWN)
    scores = score_rows(rows)
    assert [each.id for each in scores] == ["c", "b", "d", "a"]
    for each in (scores[1], scores[3]):
        assert each.interval
        assert each.step_time_s
        assert each.memory_gb
        assert each.interval[0] < each.step_time_s < each.interval[1]
        assert 5 < each.memory_gb < 300
        assert any("published runs" in line for line in each.provenance)
        assert any("datasheet of H100" in line for line in each.provenance)
        assert not each.reason
    assert "no dimensions" in scores[0].reason
    assert "unknown chip 'h1000'" in scores[2].reason
    assert scores[0].step_time_s is scores[0].interval is scores[0].tokens_per_s_per_chip is None


def test_figures_agree_with_each_other():
    score = score_rows(parse_rows(HEADER + KNOWN))[0]
    assert score.step_time_s
    assert score.tokens_per_s_per_chip
    assert score.tflops_per_chip
    assert score.step_time_s * score.tokens_per_s_per_chip == pytest.approx(64 * 8192 / 8)
    assert 300 < score.tflops_per_chip < 700


def test_calibration_moves_its_system_and_narrows_the_interval():
    rows = parse_rows(HEADER + LARGER)
    slow = parse_rows(HEADER + KNOWN.replace("7000", "3500"))
    before, after = score_rows(rows)[0], score_rows(rows, slow)[0]
    assert before.step_time_s
    assert after.step_time_s
    assert before.interval
    assert after.interval
    assert after.step_time_s > 1.15 * before.step_time_s
    assert after.interval[1] / after.interval[0] < before.interval[1] / before.interval[0]
    assert any("calibrated by a" in line for line in after.provenance)


def test_calibration_leaves_other_systems_where_they_are():
    other = parse_rows(HEADER + LARGER.replace("Own system", "llm-foundry"))
    slow = parse_rows(HEADER + KNOWN.replace("7000", "3500"))
    before, after = score_rows(other)[0], score_rows(other, slow)[0]
    assert before.step_time_s
    assert after.step_time_s
    assert after.step_time_s == pytest.approx(before.step_time_s, rel=0.05)


def test_nothing_but_strange_chips_or_calibration_without_a_time_is_refused():
    with pytest.raises(InputError, match="unknown chip") as refused:
        score_rows(parse_rows(HEADER + UNKNOWN_CHIP))
    assert refused.value.where == "line 2"
    assert "nearest" in (refused.value.hint or "")
    with pytest.raises(InputError, match="no calibration row"):
        score_rows(parse_rows(HEADER + KNOWN), parse_rows(HEADER + LARGER))


def test_calibration_passes_over_times_that_no_chip_has():
    rows = parse_rows(HEADER + LARGER)
    good, absurd = KNOWN, KNOWN.replace("a,", "x,", 1).replace("7000", "700000")
    with pytest.raises(InputError, match="a step of 'x' took"):
        score_rows(rows, parse_rows(HEADER + absurd))
    with pytest.raises(InputError, match="a step of 'x' took"):
        score_rows(rows, parse_rows(HEADER + absurd.replace("700000", "1e-9")))
    mixed = score_rows(rows, parse_rows(HEADER + good + absurd))[0]
    assert mixed.step_time_s == score_rows(rows, parse_rows(HEADER + good))[0].step_time_s
    assert "not by x: its time is not possible" in mixed.provenance


def test_a_drift_is_not_followed_to_releases_far_off():
    row = "Megatron-Bridge 26.%s,Llama3-70B"
    near, far = (
        score_rows(parse_rows(HEADER + LARGER.replace("Own system,Llama3-70B", name)))[0].step_time_s
        for name in (row % "10", "Megatron-Bridge 99.12,Llama3-70B")
    )
    assert near
    assert far == pytest.approx(near, rel=1e-3)


def test_no_rows_no_scores():
    assert score_rows(parse_rows(HEADER)) == []


COUNTS = st.sampled_from([0, 1, 2, 3, 8, 64])
DEGREES = st.fixed_dictionaries(
    dict.fromkeys(("tp", "pp", "vpp", "dp", "ep", "cp", "experts", "topk"), COUNTS)
)


@settings(max_examples=60, deadline=None)
@given(
    DEGREES,
    st.sampled_from([0, 1, 7, 128, 4096]),
    st.sampled_from([0, 1, 96, 4097]),
    st.sampled_from(["", "fp8", "nvfp4", "x"]),
)
def test_any_row_is_scored_or_says_why(degrees: dict[str, int], layers: int, size: int, precision: str):
    row = Row(
        id="a", line=2, source="s", model="m", chip="h100", n_chips=64, layers=layers, hidden=size, seq=size,
        heads=layers, micro_batch=size % 5, precision=precision, **degrees,
    )  # fmt: skip
    score = score_rows([row])[0]
    if score.reason:
        assert score.step_time_s is None
    else:
        assert score.interval is not None
        assert score.step_time_s is not None
        assert 0 < score.interval[0] < score.step_time_s < score.interval[1]
