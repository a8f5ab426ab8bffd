"""Rows of measured training runs, from a CSV with the columns of the published collection.

An empty cell is a value that the source does not state.
"""

import csv
import difflib
import io
from pathlib import Path

import msgspec

from isthmus.errors import InputError, NotFoundError

_WHOLE = (
    "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "experts", "topk", "seq", "n_chips",
    "chips_per_node", "tp", "pp", "vpp", "dp", "ep", "cp", "micro_batch", "global_batch",
)  # fmt: skip
_REAL = ("params_b", "tflops_per_chip", "mfu_pct", "tokens_per_s_per_chip", "step_time_s", "memory_used_gib")
NEEDED = ("id", "source", "model", "chip", "n_chips")
"""Columns without which no row can be read."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measured run. 0: not stated. Columns that a CSV lacks are not stated either."""

    id: str
    line: int
    """In the file, from 1."""
    source: str
    url_or_repo_path: str = ""
    model: str
    params_b: float = 0.0
    layers: int = 0
    hidden: int = 0
    heads: int = 0
    kv_heads: int = 0
    ffn: int = 0
    vocab: int = 0
    experts: int = 0
    topk: int = 0
    seq: int = 0
    chip: str
    n_chips: int
    chips_per_node: int = 0
    tp: int = 0
    pp: int = 0
    vpp: int = 0
    dp: int = 0
    ep: int = 0
    cp: int = 0
    micro_batch: int = 0
    global_batch: int = 0
    precision: str = ""
    recompute: str = ""
    tflops_per_chip: float = 0.0
    mfu_pct: float = 0.0
    tokens_per_s_per_chip: float = 0.0
    step_time_s: float = 0.0
    hetero: str = ""
    memory_used_gib: float = 0.0
    notes: str = ""

    @property
    def has_dimensions(self) -> bool:
        return self.layers > 0 and self.hidden > 0


def read_rows(path: str | Path) -> list[Row]:
    """Raises NotFoundError without the file, InputError with its line for a malformed one."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file '{path}'", hint="give a CSV of measured runs") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read '{path}': {error}", hint="give a CSV in UTF-8") from error
    return parse_rows(text, str(path))


def parse_rows(text: str, name: str = "rows") -> list[Row]:
    """`name` is told in errors."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [column.strip() for column in next(reader, [])]
        _check_header(header, name)
        rows = [_row(header, cells, name, reader.line_num) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise InputError(
            f"not a CSV: {error}", where=f"{name}:{reader.line_num}", hint="quote cells that hold line breaks"
        ) from error
    _check_unique(rows, name)
    return rows


def _check_header(header: list[str], name: str) -> None:
    twice = [column for column in Row.__struct_fields__ if header.count(column) > 1]
    if twice:
        raise InputError(
            f"the header has {', '.join(twice)} twice", where=f"{name}:1", hint="give each column one name"
        )
    missing = [column for column in NEEDED if column not in header]
    if not missing:
        return
    near = {column: difflib.get_close_matches(column, header, n=1) for column in missing}
    told = [f"{column} ('{match[0]}' is near)" if match else column for column, match in near.items()]
    raise InputError(
        f"the header lacks {', '.join(told)}",
        where=f"{name}:1",
        hint=f"the first line names the columns; needed are {', '.join(NEEDED)}",
    )


def _row(header: list[str], cells: list[str], name: str, line: int) -> Row:
    where = f"{name}:{line}"
    if len(cells) != len(header):
        raise InputError(
            f"{len(cells)} cells under {len(header)} columns",
            where=where,
            hint="quote cells that hold commas, and leave unknown ones empty",
        )
    given = {column: cell.strip() for column, cell in zip(header, cells, strict=True) if cell.strip()}
    values: dict[str, object] = {"line": line}
    for column in Row.__struct_fields__:
        if column == "line" or column not in given:
            continue
        values[column] = _value(column, given[column], where)
    for column in NEEDED:
        if column not in values:
            raise InputError(f"'{column}' is empty", where=where, hint="every row must state it")
    return msgspec.convert(values, Row)


def _value(column: str, cell: str, where: str) -> object:
    if column not in _WHOLE and column not in _REAL:
        return cell
    try:
        number = float(cell)
    except ValueError:
        raise InputError(
            f"'{column}' is '{cell}', not a number", where=where, hint="leave the cell empty if it is unknown"
        ) from None
    if not 0 <= number < 1e15 or (column in _WHOLE and number != int(number)):
        kind = "a whole number" if column in _WHOLE else "a number"
        raise InputError(
            f"'{column}' is {cell}, not {kind} of 0 or more", where=where, hint="0 or empty: not stated"
        )
    return int(number) if column in _WHOLE else number


def _check_unique(rows: list[Row], name: str) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        if row.id in seen:
            raise InputError(
                f"id '{row.id}' is also on line {seen[row.id]}",
                where=f"{name}:{row.line}",
                hint="give each row an id of its own",
            )
        seen[row.id] = row.line
