"""A CSV of measured runs is read, or refused with the line and a remedy."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import InputError, NotFoundError
from isthmus.planner.published.rows import parse_rows, read_rows

HEADER = "id,source,model,chip,n_chips,tp,step_time_s,notes\n"
GOOD = HEADER + 'a,somebody,Llama3-8B,a100,8,2,1.5,"one, two"\nb,somebody,Llama3-8B,a100,16,,,\n'


def test_cells_become_numbers_and_empty_ones_are_not_stated():
    one, other = parse_rows(GOOD)
    assert (one.n_chips, one.tp, one.step_time_s, one.notes, one.line) == (8, 2, 1.5, "one, two", 2)
    assert (other.tp, other.step_time_s, other.notes, other.line) == (0, 0.0, "", 3)
    assert one.layers == 0
    assert not one.has_dimensions


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("", "rows:1", "lacks id, source, model, chip, n_chips"),
        ("id,source,model,chips,n_chips\n", "rows:1", "chip ('chips' is near)"),
        (HEADER + "a,s,m,a100,8,2\n", "rows:2", "6 cells under 8 columns"),
        (HEADER + "a,s,m,a100,eight,2,1.5,\n", "rows:2", "'n_chips' is 'eight', not a number"),
        (HEADER + "a,s,m,a100,8,2.5,1.5,\n", "rows:2", "'tp' is 2.5, not a whole number"),
        (HEADER + "a,s,m,a100,8,2,-1,\n", "rows:2", "'step_time_s' is -1, not a number of 0 or more"),
        (HEADER + "a,s,m,a100,8,2,nan,\n", "rows:2", "'step_time_s' is nan"),
        (HEADER + "a,s,,a100,8,2,1.5,\n", "rows:2", "'model' is empty"),
        (HEADER + f"{'a' * 200_000},s,m,a100,8,2,1.5,\n", "rows:2", "not a CSV"),
        ("id,source,model,chip,n_chips,tp,tp\n", "rows:1", "has tp twice"),
        (GOOD + "a,s,m,a100,8,2,1.5,\n", "rows:4", "id 'a' is also on line 2"),
    ],
)
def test_a_malformed_file_is_refused(text: str, place: str, said: str):
    with pytest.raises(InputError) as refused:
        parse_rows(text)
    assert refused.value.where == place
    assert said in refused.value.message
    assert refused.value.hint


def test_a_file_that_is_not_there_or_is_no_text(tmp_path: Path):
    with pytest.raises(NotFoundError):
        read_rows(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="cannot read"):
        read_rows(tmp_path / "binary.csv")


@given(st.text(alphabet="ab,\n\"' 1.-", max_size=60))
def test_any_text_is_read_or_refused(text: str):
    refused: InputError | None = None
    try:
        parse_rows(HEADER + text)
    except InputError as error:
        refused = error
    assert refused is None or (refused.where and refused.hint)
