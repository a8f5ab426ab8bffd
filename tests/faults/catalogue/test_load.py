"""What the loader takes, and how it names what is wrong."""

from pathlib import Path

import pytest

from isthmus.errors import InputError, NotFoundError
from isthmus.faults.catalogue.load import load_catalogue


@pytest.fixture
def folder(tmp_path: Path, entry: str) -> Path:
    (tmp_path / "mine.yaml").write_text(entry)
    return tmp_path


def test_a_folder_of_your_own_is_added(folder: Path):
    known = load_catalogue(folder)
    assert known.by_id["MY-FAULT"].kind == "crash"
    assert len(known.entries) == len(load_catalogue().entries) + 1
    assert [entry.id for entry in known.files[str(folder / "mine.yaml")]] == ["MY-FAULT"]
    assert "MY-FAULT" not in load_catalogue().by_id


def test_it_is_read_once():
    assert load_catalogue() is load_catalogue()


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(NotFoundError, match="no such folder"):
        load_catalogue(tmp_path / "none")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("class: crash", "class: crashed", r"mine\.yaml:2: entry 1 \(MY-FAULT\).*crashed"),
        ("    cause: It was pushed.\n", "", r"mine\.yaml:2: entry 1 \(MY-FAULT\).*cause"),
        ("    cause:", "    reason: x\n    cause:", r"entry 1 \(MY-FAULT\).*reason"),
        ("entries:", "faults:", "no list of entries"),
        ("chips: [any]", "chips: [any", "not valid YAML"),
        ("['https://example.org/frobnicator']", "[]", "MY-FAULT: 'sources' is empty"),
        ("It was pushed.", "''", "MY-FAULT: 'cause' is empty"),
        ("MY-FAULT", "my fault", "capital letters"),
        ("frobnicator \\d+ off its track']", "frobnicator (\\d+']", "is not a regular expression"),
        ("frobnicator \\d+ off its track']", "(?<=a)frobnicator']", "look-behind, which RE2 lacks"),
        ("frobnicator \\d+ off its track']", "(frobnicator) \\1']", "back-reference, which RE2 lacks"),
        ("frobnicator \\d+ off its track']", "\\d+ of']", "no run of 4 plain characters"),
        ("frobnicator \\d+ off its track']", "frobnicators']", "does not hit its test line"),
        ("MY-FAULT", "NUM-SPIKE", "an entry of this id already"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, entry: str, old: str, new: str, said: str):
    (folder / "mine.yaml").write_text(entry.replace(old, new, 1))
    with pytest.raises(InputError, match=said):
        load_catalogue(folder)


def test_a_word_that_yaml_takes_for_something_else_stays_a_word(folder: Path, entry: str):
    (folder / "mine.yaml").write_text(entry.replace("It was pushed.", "no"))
    assert load_catalogue(folder).by_id["MY-FAULT"].cause == "no"
