from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.data.dataset import Dataset, prepare
from isthmus.spec.run import DataSpec, SourceSpec

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "small",
    "boats",
    "cross",
    "the",
    "grey",
    "isthmus",
    "at",
    "dawn",
]


def _write_corpus(folder: Path, name: str, num_docs: int, salt: int = 0) -> Path:
    """`num_docs` text files of unlike lengths, the same on every call; returns the glob."""
    (folder / name).mkdir(parents=True)
    for i in range(num_docs):
        words = [
            WORDS[(i * 7 + j * j + salt) % len(WORDS)] + str((i + j) % 13) for j in range(20 + i * 11 % 170)
        ]
        (folder / name / f"{i:04d}.txt").write_text(f"document {salt} {i}\n" + " ".join(words) + "\n")
    return folder / name / "*.txt"


@pytest.fixture(scope="session")
def write_corpus() -> Callable[..., Path]:
    return _write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_corpus(tmp_path_factory.mktemp("corpus"), "a", 120)


@pytest.fixture(scope="session")
def data_spec(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    other = _write_corpus(tmp_path_factory.mktemp("other"), "b", 60, salt=5)
    sources = [SourceSpec(path=str(corpus), weight=3), SourceSpec(path=str(other))]
    cache = str(tmp_path_factory.mktemp("cache"))
    return DataSpec(sources=sources, seq_len=32, held_out=0.1, cache=cache)


@pytest.fixture(scope="session")
def dataset(data_spec: DataSpec) -> Dataset:
    return prepare(data_spec, 400)
