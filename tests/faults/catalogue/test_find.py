"""Entries by lines and by words."""

from pathlib import Path

import pytest

from isthmus.faults.catalogue.find import Signatures, search
from isthmus.faults.catalogue.load import load_catalogue


def test_a_pasted_line_finds_its_entry():
    line = "[rank3]: RuntimeError: DataLoader worker (pid 1817) is killed by signal: Killed. "
    found = search(load_catalogue(), line)
    assert found[0].entry.id == "DATA-WORKER-KILLED"
    assert found[0].line == line


@pytest.mark.parametrize(
    ("words", "entry"),
    [("loss scale minimum", "SCALE-COLLAPSE"), ("num-spike", "NUM-SPIKE"), ("straggler", "STRAGGLER")],
)
def test_words_rank_the_entries(words: str, entry: str):
    found = search(load_catalogue(), words)
    assert entry in [match.entry.id for match in found[:3]]
    assert not found[0].line
    assert [match.score for match in found] == sorted((match.score for match in found), reverse=True)


def test_words_that_nothing_holds_find_nothing():
    assert search(load_catalogue(), "zzzyx qqqqj") == []


def test_the_generic_entry_counts_only_alone(signatures: Signatures):
    assert [hit.id for hit in signatures.hits("ValueError: something of ours")] == ["PY-EXC"]
    line = "ValueError: loaded state dict has a different number of parameter groups"
    assert [hit.id for hit in signatures.hits(line)] == ["CKPT-OPTIMIZER"]


def test_the_most_telling_hit_comes_first(tmp_path: Path, entry: str):
    wide = entry.replace("MY-FAULT", "MY-WIDE").replace("frobnicator \\d+ off its track'", "frobnicator'")
    (tmp_path / "mine.yaml").write_text(entry + wide.removeprefix("entries:\n"))
    known = Signatures(load_catalogue(tmp_path).entries)
    assert [hit.id for hit in known.hits("frobnicator 7 off its track")] == ["MY-FAULT", "MY-WIDE"]
