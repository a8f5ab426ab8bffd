"""Reading the dumps of PyTorch's Flight Recorder, pickled or as JSON. Dumps are data of others: a pickle that
names any global at all is refused, since naming one is how a pickle runs code.
"""

import io
import json
import pickle
import re
from ast import literal_eval
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from isthmus.errors import InputError

_NAME = re.compile(r"(?:^|[_.-])(?:dump|trace_rank|fr_trace|flight\w*)_?(\d+)(?:\.(?:json|pkl|pickle))?$")
MAX_BYTES = 1 << 30


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """One collective or point-to-point operation of one rank."""

    group: str
    seq: int
    name: str
    """'all_reduce', 'send 0->1'."""
    shape: str
    """Sizes and types of what goes in."""
    done: bool
    p2p: bool
    created_ns: int


class Dump(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank recorded."""

    rank: int
    where: str
    groups: dict[str, tuple[int, ...]]
    """Name of a process group -> its ranks."""
    labels: dict[str, str]
    status: dict[str, tuple[int, int]]
    """Name of a group -> last operation that was completed and last one that was enqueued."""
    ops: tuple[Op, ...]


def rank_of_dump(path: Path) -> int | None:
    """The rank in a dump's file name, such as `_dump_3` or `nccl_trace_rank_3`; None for other files."""
    match = _NAME.search(path.name)
    return int(match[1]) if match and len(match[1]) < 8 else None


def read_dump(path: Path, rank: int) -> Dump:
    """Raises InputError for what is no dump, or a pickle that asks for code."""
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"a flight record of more than {MAX_BYTES >> 20} MiB", where=str(path))
    return parse_dump(path.read_bytes(), rank, str(path))


def parse_dump(body: bytes, rank: int, where: str) -> Dump:
    loaded = _load(body, where)
    if not isinstance(loaded, dict) or not isinstance(loaded.get("entries"), list):
        raise InputError("not a flight record: there are no entries", where=where)
    try:
        return _dump(loaded, rank, where)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, SyntaxError) as error:
        raise InputError(f"not a flight record: {error!r}", where=where) from error


class _DataOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, and data names nothing")

    def persistent_load(self, pid: Any, /) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of it")


def _load(body: bytes, where: str) -> Any:
    if body.lstrip()[:1] in (b"{", b"["):
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InputError("damaged JSON", where=where) from error
    try:
        return _DataOnly(io.BytesIO(body)).load()
    except Exception as error:
        # The unpickler raises whatever its bytes make it raise.
        hint = "only flight records of plain data are read"
        raise InputError(f"the pickle is refused: {error}", where=where, hint=hint) from error


def _dump(loaded: Mapping[str, Any], rank: int, where: str) -> Dump:
    config = {str(name): value for name, value in (loaded.get("pg_config") or {}).items()}
    entries = [entry for entry in loaded["entries"] if isinstance(entry, dict)]
    return Dump(
        rank=rank,
        where=where,
        groups={name: _ranks(value.get("ranks", "[]")) for name, value in config.items()},
        labels={name: str(value.get("desc") or name) for name, value in config.items()},
        status=_status(loaded, config, entries),
        ops=tuple(_op(entry) for entry in entries),
    )


def _ranks(value: Any) -> tuple[int, ...]:
    listed = literal_eval(value) if isinstance(value, str) else value
    return tuple(int(rank) for rank in listed)


def _op(entry: Mapping[str, Any]) -> Op:
    group = entry.get("process_group") or ("0", "")
    done = bool(entry.get("retired")) or entry.get("state") == "completed"
    p2p = bool(entry.get("is_p2p"))
    return Op(
        group=str(group[0]),
        seq=int(entry.get("p2p_seq_id" if p2p else "collective_seq_id") or 0),
        name=str(entry.get("profiling_name", "")).partition(":")[2] or str(entry.get("profiling_name", "")),
        shape=f"{entry.get('input_sizes')} {entry.get('input_dtypes') or ''}".strip(),
        done=done,
        p2p=p2p,
        created_ns=int(entry.get("time_created_ns") or 0),
    )


def _status(
    loaded: Mapping[str, Any], config: Mapping[str, Any], entries: list[dict[str, Any]]
) -> dict[str, tuple[int, int]]:
    """`pg_status` counts groups from 0 in the order they were made; `pg_config` names them. Both grow alike,
    so that they are matched in order; where an entry, which tells both, contradicts, nothing is matched.
    """
    status = {str(key): value for key, value in (loaded.get("pg_status") or {}).items()}
    if len(status) != len(config) or not all(key.isdigit() for key in (*status, *config)):
        return {}
    name_of = dict(zip(sorted(status, key=int), sorted(config, key=int), strict=True))
    for entry in entries:
        known = name_of.get(str(entry.get("pg_id")))
        if known is not None and known != str((entry.get("process_group") or ("",))[0]):
            return {}
    return {
        name: (
            int(status[key].get("last_completed_collective", -1)),
            int(status[key].get("last_enqueued_collective", -1)),
        )
        for key, name in name_of.items()
    }
