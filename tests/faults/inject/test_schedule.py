import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import InputError, NotFoundError
from isthmus.faults.inject.schedule import (
    FaultSpec,
    Planned,
    RandomSpec,
    Schedule,
    expand,
    load_schedule,
)

DRILL = """\
seed: 4
faults:
  - {kind: kill, rank: 1, at_step: 20}
  - kind: slow
    rank: 0
    at_s: 5
    value: 1.5
  - {kind: stop, every_s: 10, jitter_s: 2, times: 3}
random:
  - {kind: kill, count: 5, within_s: 60, from_s: 10, ranks: [1, 2]}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "faults.yaml"
    path.write_text(text)
    return path


def test_a_whole_drill(tmp_path: Path):
    planned = expand(load_schedule(written(tmp_path, DRILL), {"": 4}), 4, 4)
    assert planned[0] == Planned(kind="kill", rank=1, at_step=20)
    assert [fault.at_s for fault in planned] == sorted(fault.at_s for fault in planned)
    (slow,) = [fault for fault in planned if fault.kind == "slow"]
    assert slow == Planned(kind="slow", rank=0, at_s=5.0, value=1.5)
    stops = [fault.at_s for fault in planned if fault.kind == "stop"]
    assert all(abs(at_s - due_s) <= 2 for at_s, due_s in zip(stops, (10, 20, 30), strict=True))
    kills = [fault for fault in planned if fault.kind == "kill"][1:]
    assert len(kills) == 5
    assert all(10 <= fault.at_s <= 70 and fault.rank in (1, 2) for fault in kills)


def test_the_example_in_the_docs_is_one(tmp_path: Path):
    page = (Path(__file__).parents[3] / "docs" / "inject.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(expand(load_schedule(written(tmp_path, text), {"": 4}), 4, 4)) == 9 + 110


def test_a_value_of_nought_is_the_default():
    (fault,) = expand(Schedule(faults=[FaultSpec(kind="slow", rank=0)]), 0, 1)
    assert fault.value == 1.2


ENTRIES = st.builds(RandomSpec, count=st.integers(1, 20), within_s=st.floats(1, 1000), seed=st.integers(0, 3))


@given(st.lists(ENTRIES, max_size=4), ENTRIES, st.integers(0, 2**40), st.integers(1, 64))
def test_the_same_arguments_give_the_same_faults_and_an_entry_more_changes_no_other(
    entries: list[RandomSpec], more: RandomSpec, seed: int, world_size: int
):
    random.seed(seed)
    first = expand(Schedule(random=entries), seed, world_size)
    random.seed(seed + 1)
    assert expand(Schedule(random=entries), seed, world_size) == first
    longer = expand(Schedule(random=[*entries, more]), seed, world_size)
    assert len(longer) == len(first) + more.count
    for fault in first:
        longer.remove(fault)
    assert all(0 <= fault.rank < world_size for fault in (*first, *longer))


def test_another_seed_gives_another_drill():
    schedule = Schedule(random=[RandomSpec(count=20, within_s=60)])
    assert expand(schedule, 1, 4) != expand(schedule, 2, 4)
    other = Schedule(random=[RandomSpec(count=20, within_s=60, seed=9)])
    assert expand(schedule, 1, 4) != expand(other, 1, 4)


@pytest.mark.parametrize(
    ("line", "place", "word", "hint"),
    [
        ("- {kind: kil, rank: 1}", 2, "'kil'", "kill"),
        ("- {kind: kill, at: save}", 2, "'save'", "saving"),
        ("- {kind: kill, at_stp: 3}", 2, "unknown key 'at_stp'", "at_step"),
        ("- {rank: 3}", 2, "'kind' is missing", "give it"),
        ("- {kind: kill, at_step: 1, at_s: 3}", 2, "together", "leave one"),
        ("- {kind: kill, at_step: 1, every_s: 3}", 2, "together", "leave one"),
        ("- {kind: kill, times: 3}", 2, "at once", "every_s"),
        ("- {kind: kill, every_s: 3, jitter_s: 4}", 2, "too much", "at most every_s, 3"),
        ("- {kind: kill, jitter_s: 4}", 2, "too much", "give every_s"),
        ("- {kind: nan, at: saving}", 2, "cannot wait", "kill, exit"),
        ("- {kind: oom, rank: 0}", 2, "limit", "MB"),
        ("- {kind: kill, value: 4}", 2, "no value", "leave the value out"),
        ("- {kind: link_cut, at_step: 4}", 2, "by steps", "at_s"),
        ("- {kind: kill, rank: 4}", 2, "no rank 4", "0 to 3"),
        ("- {kind: kill}\n  - {kind: kill, site: jinam}", 3, "'jinam'", "jinan"),
        ("- kill", 2, "'kill' is not a mapping", "key: value"),
    ],
)
def test_errors_name_line_and_remedy(tmp_path: Path, line: str, place: int, word: str, hint: str):
    path = written(tmp_path, f"faults:\n  {line}\n")
    with pytest.raises(InputError) as caught:
        load_schedule(path, {"": 4, "jinan": 4})
    assert caught.value.where == f"{path}:{place}"
    assert word in caught.value.message
    assert hint in str(caught.value.hint)


def test_all_problems_are_told_at_once(tmp_path: Path):
    text = "faults:\n  - {kind: kill, rank: 9}\nrandom:\n  - {count: 2, within_s: 3, ranks: [1, 7]}\n"
    with pytest.raises(InputError) as caught:
        load_schedule(written(tmp_path, text), {"": 4})
    assert "no rank 9" in str(caught.value)
    assert "no rank 7" in str(caught.value)


def test_where_several_sites_are_one_must_be_named(tmp_path: Path):
    path = written(tmp_path, "faults: [{kind: kill}]")
    with pytest.raises(InputError, match="which site"):
        load_schedule(path, {"jinan": 4, "qingdao": 4})


def test_nothing_and_too_much(tmp_path: Path):
    with pytest.raises(InputError, match="no faults"):
        load_schedule(written(tmp_path, ""))
    with pytest.raises(InputError, match="too many"):
        load_schedule(written(tmp_path, "random: [{count: 1000000, within_s: 9}]"))
    with pytest.raises(NotFoundError):
        load_schedule(tmp_path / "none.yaml")


def test_a_rank_that_is_not_there():
    with pytest.raises(InputError, match="no rank 3"):
        expand(Schedule(faults=[FaultSpec(kind="kill", rank=3)]), 0, 2)
