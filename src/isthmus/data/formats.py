"""Documents out of files: plain text, jsonl and parquet, each also zstd-compressed (`.zst`)."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from isthmus.errors import InputError

TEXT = {".txt", ".text", ".md", ".rst", ".py"}
LINES = {".jsonl", ".ndjson"}
PARQUET = {".parquet"}

SPLIT_BYTES = 64 * 1024
"""A longer text file becomes several documents, cut at blank lines: they are shuffled and held out."""


def file_format(path: Path) -> str:
    """'text', 'lines' or 'parquet', by the name's ending before any `.zst`; InputError for any other."""
    suffix = path.with_suffix("").suffix if path.suffix == ".zst" else path.suffix
    for name, endings in (("text", TEXT), ("lines", LINES), ("parquet", PARQUET)):
        if suffix.lower() in endings:
            return name
    raise InputError(
        f"cannot tell the format from the ending '{suffix}'",
        where=str(path),
        hint=f"known are {', '.join(sorted(TEXT | LINES | PARQUET))}, each also with .zst",
    )


def read_documents(path: Path, text_field: str) -> Iterator[str]:
    """Every document of one file, in order. Errors name the file and the line or byte."""
    kind = file_format(path)
    with _open_bytes(path) as file:
        if kind == "text":
            yield from _text_documents(file, path)
        elif kind == "lines":
            yield from _line_documents(file, path, text_field)
        else:
            yield from _parquet_documents(file, path, text_field)


@contextmanager
def _open_bytes(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror}", where=str(path)) from e
    with file:
        if path.suffix != ".zst":
            yield file
            return
        zstandard = _optional("zstandard", path)
        with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
            try:
                yield io.BufferedReader(reader, 1 << 20)
            except zstandard.ZstdError as e:
                raise InputError(f"is no whole zstd file: {e}", where=str(path)) from e


def _optional(module: str, path: Path) -> Any:
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as e:
        raise InputError(
            f"needs the package '{module.partition('.')[0]}', which is not installed",
            where=str(path),
            hint="pip install 'isthmus[data]'",
        ) from e


def _text_documents(file: BinaryIO, path: Path) -> Iterator[str]:
    piece: list[bytes] = []
    size = offset = 0
    for line in file:
        piece.append(line)
        size += len(line)
        if size >= SPLIT_BYTES and (not line.strip() or size >= 2 * SPLIT_BYTES):
            yield _decode(b"".join(piece), path, offset)
            offset += size
            piece, size = [], 0
    if piece:
        yield _decode(b"".join(piece), path, offset)


def _decode(raw: bytes, path: Path, offset: int) -> str:
    try:
        return raw.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as e:
        raise InputError(
            f"byte {offset + e.start} is not UTF-8",
            where=str(path),
            hint="convert the file first, for example with iconv -t utf-8",
        ) from e


def _line_documents(file: BinaryIO, path: Path, text_field: str) -> Iterator[str]:
    decoder = msgspec.json.Decoder()
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise InputError(
                f"is not a JSON object: {e}", where=where, hint="mend the line or delete it"
            ) from e
        if not isinstance(record, dict):
            raise InputError(
                f"holds a JSON {type(record).__name__}, not an object", where=where, hint='as {"text": "..."}'
            )
        yield pick_text(record, text_field, where)


def _parquet_documents(file: BinaryIO, path: Path, text_field: str) -> Iterator[str]:
    parquet = _optional("pyarrow.parquet", path)
    arrow = _optional("pyarrow", path)
    whole = file if path.suffix != ".zst" else io.BytesIO(file.read())  # parquet needs to seek
    try:
        table = parquet.ParquetFile(whole)
    except arrow.ArrowInvalid as e:
        raise InputError(f"is no whole parquet file: {e}", where=str(path)) from e
    names = table.schema_arrow.names
    if text_field not in names:
        raise missing_field(text_field, names, str(path))
    row = 0
    for batch in table.iter_batches(batch_size=1024, columns=[text_field]):
        for value in batch.column(0).to_pylist():
            yield pick_text({text_field: value}, text_field, f"{path}, row {row}")
            row += 1


def pick_text(record: dict[str, Any], text_field: str, where: str) -> str:
    """The text of one record; InputError where the field is missing or holds no text."""
    if text_field not in record:
        raise missing_field(text_field, list(record), where)
    text = record[text_field]
    if not isinstance(text, str):
        raise InputError(
            f"the field '{text_field}' holds {type(text).__name__}, not text",
            where=where,
            hint="name the text's field with text_field",
        )
    return text


def missing_field(text_field: str, available: list[str], where: str) -> InputError:
    return InputError(
        f"there is no field '{text_field}'; there are {', '.join(available) or 'none'}",
        where=where,
        hint="name the text's field with text_field",
    )
