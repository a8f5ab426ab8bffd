"""Contenders in processes of their own, which take turns."""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import isthmus
from isthmus.errors import IsthmusError

VARIABLE = "ISTHMUS_BENCH_TORCHTITAN_PYTHON"
"""Names an interpreter that has torchtitan, where this one has not."""
WORKER = Path(__file__).with_name("worker.py")
TURN_TIMEOUT_S = 600.0
_VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps([version(name) for name in sys.argv[1:]]))
"""


class Contender:
    """A worker that has been started. `turn` raises IsthmusError, with its last words, once it has failed."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        python: str = sys.executable,
        variables: Mapping[str, str] | None = None,
    ):
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, str(WORKER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment() | dict(variables or {}),
        )

    def turn(self, seed: int) -> dict[str, float]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            print(json.dumps({"seed": seed}), file=self._process.stdin, flush=True)
            if select.select([self._process.stdout], [], [], TURN_TIMEOUT_S)[0]:
                return json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            pass
        raise IsthmusError(f"{self.name}: {self._last_words()}")

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return lines[-1] if lines else "it gave no answer"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def environment() -> dict[str, str]:
    path = [str(Path(isthmus.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": "1"}


class Titan(NamedTuple):
    python: str
    title: str
    """Its version, and torch's."""


@lru_cache
def torchtitan() -> Titan | None:
    """The peer, if it is installed."""
    python = os.environ.get(VARIABLE, sys.executable)
    command = [python, "-c", _VERSIONS, "torchtitan", "torch"]
    try:
        found = subprocess.run(command, capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    version, torch_version = json.loads(found.stdout)
    return Titan(python, f"torchtitan {version} (torch {torch_version})")


def options(**shape: Any) -> list[str]:
    return ["--shape", json.dumps(shape)]
