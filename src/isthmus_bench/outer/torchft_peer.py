"""torchft's DiLoCo as a peer: found, or left out with a note.

It wants an interpreter that has isthmus and torchft, with torch of the same version: this one, or the one
that the environment variable ISTHMUS_BENCH_TORCHFT_PYTHON names.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import isthmus
from isthmus.agent.children import Child
from isthmus.comm.local import free_port
from isthmus.errors import IsthmusError

VARIABLE = "ISTHMUS_BENCH_TORCHFT_PYTHON"
_PROBE = """
import json, sys
from importlib.metadata import version
import torchft
import isthmus_bench.outer.torchft_worker
print(json.dumps({name: version(name) for name in ("torch", "torchft")}))
"""


@dataclass(frozen=True)
class Torchft:
    python: str
    version: str
    torch_version: str

    @property
    def name(self) -> str:
        return f"torchft {self.version} DiLoCo"


@lru_cache(maxsize=1)
def find() -> Torchft | None:
    """The peer, if it can run here."""
    python = os.environ.get(VARIABLE, sys.executable)
    try:
        probe = subprocess.run(
            [python, "-c", _PROBE], env=environment(), capture_output=True, timeout=120, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    versions = json.loads(probe.stdout.splitlines()[-1])
    return Torchft(python, versions["torchft"], versions["torch"])


def missing_note() -> str:
    """For a result whose peer could not run."""
    return f"torchft not run: name an interpreter that has isthmus and torchft in {VARIABLE}"


def environment() -> dict[str, str]:
    """The peer's interpreter imports this very isthmus, one thread per process as the sites have."""
    source = str(Path(isthmus.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}


class Lighthouse:
    """torchft's coordinator, on a port of its own. `url` is where the sites reach it."""

    def __init__(self, peer: Torchft, host: str, num_sites: int, log: Path, prefix: Sequence[str] = ()):
        port = free_port()
        program = Path(peer.python).parent / "torchft_lighthouse"
        self.url = f"http://{host}:{port}"
        self.child = Child(
            name="lighthouse",
            argv=[*prefix, str(program), "--bind", f"0.0.0.0:{port}", "--min_replicas", str(num_sites),
                  "--join_timeout_ms", "60000", "--quorum_tick_ms", "100"],
            log=log,
        )  # fmt: skip
        self.child.start()
        time.sleep(1.0)
        if not self.child.alive:
            raise IsthmusError(f"torchft_lighthouse did not start\n{self.child.last_words()}", where=str(log))


def worker(peer: Torchft, run_dir: Path, site: int, arguments: Sequence[str]) -> Child:
    """One site, not started yet; `arguments` as `outer.torchft_worker` takes them."""
    return Child(
        name=f"torchft-{site}",
        argv=[peer.python, "-m", "isthmus_bench.outer.torchft_worker", "--run-dir", str(run_dir),
              "--site", str(site), *arguments],
        log=run_dir / "logs" / f"torchft-{site}.log",
        env=environment(),
    )  # fmt: skip
