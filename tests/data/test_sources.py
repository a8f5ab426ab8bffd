import io
import json
import sys
import types
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from isthmus.data.formats import SPLIT_BYTES
from isthmus.data.sources import open_source
from isthmus.errors import InputError, NotFoundError
from isthmus.spec.run import SourceSpec

TEXTS = ["first text", "second: äöü 地峡", "third\nwith two lines"]


def _read(path: Path | str, text_field: str = "text") -> list[str]:
    return list(open_source(SourceSpec(path=str(path), text_field=text_field)).documents())


def _jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()


def _parquet(texts: list[str]) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"id": list(range(len(texts))), "text": texts}), out)
    return out.getvalue()


@pytest.mark.parametrize(("ending", "write"), [("jsonl", _jsonl), ("parquet", _parquet)])
@pytest.mark.parametrize("compressed", [False, True])
def test_records_plain_and_compressed(tmp_path: Path, ending: str, write, compressed: bool):
    raw = write(TEXTS)
    path = tmp_path / f"x.{ending}{'.zst' if compressed else ''}"
    path.write_bytes(zstandard.compress(raw) if compressed else raw)
    assert _read(path) == TEXTS


def test_zst_of_several_frames_is_read_to_its_end(tmp_path: Path):
    (tmp_path / "x.txt.zst").write_bytes(zstandard.compress(b"one\n") + zstandard.compress(b"two\n"))
    assert _read(tmp_path / "x.txt.zst") == ["one\ntwo\n"]


def test_truncated_zst_is_an_input_error(tmp_path: Path):
    (tmp_path / "x.jsonl.zst").write_bytes(b"not zstd at all")
    with pytest.raises(InputError, match="zstd"):
        _read(tmp_path / "x.jsonl.zst")


def test_glob_reads_files_in_order_of_their_names(tmp_path: Path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert _read(tmp_path / "*.txt") == ["a", "b", "c"]


def test_long_text_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path):
    paragraph = "a line of text\n" * 100 + "\n"
    text = paragraph * 200
    (tmp_path / "long.txt").write_text(text)
    pieces = _read(tmp_path / "long.txt")
    assert "".join(pieces) == text
    assert len(pieces) > 3
    assert all(piece.endswith("\n\n") for piece in pieces)
    assert all(len(piece) <= 2 * SPLIT_BYTES for piece in pieces)


@pytest.mark.parametrize(
    ("line", "where", "message"),
    [
        (b"{oops", ":2", "not a JSON object"),
        (b"[1]", ":2", "JSON list"),
        (b'{"body": "x", "id": 1}', ":2", "no field 'text'; there are body, id"),
        (b'{"text": 5}', ":2", "holds int"),
        (b'{"text": "\xff"}', ":2", "not a JSON object"),
        (b'{"text": "\\ud800"}', ":2", "not a JSON object"),
    ],
)
def test_bad_line_names_file_and_line(tmp_path: Path, line: bytes, where: str, message: str):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(InputError, match=message) as caught:
        _read(path)
    assert caught.value.where == f"{path}{where}"
    assert caught.value.hint


def test_missing_parquet_column_names_the_others(tmp_path: Path):
    path = tmp_path / "x.parquet"
    path.write_bytes(_parquet(TEXTS))
    with pytest.raises(InputError, match="no field 'body'; there are id, text"):
        _read(path, text_field="body")
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match="parquet"):
        _read(path)


def test_text_that_is_not_utf8_names_the_byte(tmp_path: Path):
    (tmp_path / "x.txt").write_bytes(b"abc\n\xff\xfe")
    with pytest.raises(InputError, match="byte 4 is not UTF-8"):
        _read(tmp_path / "x.txt")


def test_nothing_found(tmp_path: Path):
    with pytest.raises(NotFoundError, match="no file matches"):
        _read(tmp_path / "*.txt")
    with pytest.raises(NotFoundError, match="is a folder"):
        _read(tmp_path)
    (tmp_path / "x.exe").write_text("x")
    with pytest.raises(InputError, match=r"ending '\.exe'"):
        _read(tmp_path / "x.exe")


def test_optional_package_missing_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x.txt.zst").write_bytes(zstandard.compress(b"x"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match="zstandard") as caught:
        _read(tmp_path / "x.txt.zst")
    assert "isthmus[data]" in (caught.value.hint or "")


def test_hugging_face_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("isthmus.data.sources.find_spec", lambda name: None)
    with pytest.raises(InputError, match="datasets") as caught:
        _read("hf:org/name")
    assert "isthmus[hf]" in (caught.value.hint or "")


def test_hugging_face_dataset_configuration_and_split(monkeypatch: pytest.MonkeyPatch):
    asked = []

    class Rows(list):
        _fingerprint = "f1"

    def load_dataset(name: str, configuration: str | None, split: str):
        asked.append((name, configuration, split))
        return Rows({"text": text} for text in TEXTS)

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    fake.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert _read("hf:org/name@small:validation") == TEXTS
    assert _read("hf:name") == TEXTS
    assert asked == [("org/name", "small", "validation"), ("name", None, "train")]


def test_stdlib_is_real_text_in_a_fixed_order():
    source = open_source(SourceSpec())
    assert source.size_bytes > 10_000_000
    assert source.key == open_source(SourceSpec()).key
    documents = list(source.documents())
    assert sum(map(len, documents)) > 10_000_000
    assert any(text.startswith('"""Random variable generators') for text in documents)
    assert any("The standard type hierarchy" in text[:200] for text in documents)
    assert documents == list(source.documents())


def test_stdlib_leaves_out_what_is_of_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "json").mkdir()
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "config-3.11-x86_64").mkdir()
    for name in ("a.py", "json/b.py", "site-packages/c.py", "_sysconfigdata_x.py", "config-3.11-x86_64/d.py"):
        (tmp_path / name).write_text(name)
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "latin.py").write_bytes(b"# \xff\n")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    monkeypatch.setattr("isthmus.data.sources.find_spec", lambda name: None)
    assert _read("stdlib") == ["a.py", "json/b.py"]
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path / "nowhere")})
    with pytest.raises(NotFoundError, match="no source"):
        _read("stdlib")
