"""A small catalogue, and diagnoses of logs that are given as text."""

from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.diagnose.run import diagnose
from isthmus.faults.diagnosis import Diagnosis
from isthmus.faults.terms import Action, FaultClass


def entry(
    name: str, kind: FaultClass, *signature: str, victim: bool = False, action: Action = "alert_human"
) -> Entry:
    return Entry(
        id=name, title=name, kind=kind, chips=["any"], signature=list(signature), cause=f"cause of {name}",
        victim=victim, blast_radius="rank", action=action, verify=f"check {name}", sources=["a test"],
        tests=["-"],
    )  # fmt: skip


ENTRIES = [
    entry("OOM-DEVICE", "oom_device", r"CUDA out of memory", action="fix_config"),
    entry("OOM-HOST", "oom_host", r"Out of memory: Killed process", r"oom-kill:constraint"),
    entry("SHM", "oom_shm", r"Bus error|out of shared memory", action="fix_config"),
    entry("DISK-FULL", "disk_full", r"No space left on device", r"basic_ios::clear|unexpected pos"),
    entry("NAN", "nan", r"(?i)found nan in", action="rollback"),
    entry("LOST", "device_lost", r"fallen off the bus", r"Xid.*: 79\b", action="restart_rank"),
    entry("ECC", "ecc", r"uncorrectable ECC", action="replace_node"),
    entry("BUS-NOISE", "link", r"AER: Corrected error", victim=True, action="wait"),
    entry("XID-43", "secondary", r"Xid.*: 43\b", victim=True),
    entry("PEER-GONE", "crash", r"Connection closed by peer", victim=True, action="restart_rank"),
    entry("REMOTE", "crash", r"remote process exited", victim=True, action="restart_rank"),
    entry("WATCHDOG", "hang", r"Watchdog caught collective operation timeout", victim=True),
    entry("WAITED", "hang", r"Timed out waiting \d+ms for", victim=True, action="restart_rank"),
    entry("SIZE", "desync", r"op\.preamble\.length <= op\.nbytes", action="alert_human"),
    entry("KILLED", "crash", r"exitcode\s*: -9\b", action="restart_rank"),
    entry("ABORTED", "crash", r"exitcode\s*: -6\b|terminate called", victim=True, action="restart_rank"),
    entry("STORE", "rendezvous", r"DistStoreError", action="retry"),
    entry("NOTIFY", "hang", r"EI0002", victim=True, action="restart_rank"),
    entry("NET-CONFIG", "config", r"no socket interface found", action="retry"),
    entry("PERM", "permission", r"PermissionError", action="restart_rank"),
    entry("PLAIN", "user_code", r"^(?:KeyError|ValueError|AssertionError)\b"),
]  # fmt: skip

Diagnose = Callable[..., Diagnosis]


@pytest.fixture
def diagnosed(tmp_path: Path) -> Diagnose:
    """Diagnosis of files given as name=text (`__` is a dot), or of one text."""

    def run(text: str | None = None, **files: str) -> Diagnosis:
        folder = tmp_path / "logs"
        folder.mkdir(exist_ok=True)
        given = {"train.log": text} if text is not None else {}
        given |= {name.replace("__", "."): body for name, body in files.items()}
        for name, body in given.items():
            (folder / name).write_text(body)
        return diagnose([folder], ENTRIES).diagnosis

    return run


@pytest.fixture
def entries() -> list[Entry]:
    return ENTRIES
