"""One rank that torchrun or srun has started: this process becomes the rank, and rank 0 starts the site's
client first.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from isthmus.agent.children import Child
from isthmus.agent.launch import client_arguments
from isthmus.outer.bridge import line_folder
from isthmus.planner.plan import SitePlan
from isthmus.rundir import RunDir


def rank_environment(environment: Mapping[str, str]) -> dict[str, str] | None:
    """RANK, WORLD_SIZE and LOCAL_RANK if torchrun or srun has set them (srun by other names), else None."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return {key: environment[key] for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if key in environment}
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        return {
            "RANK": environment["SLURM_PROCID"],
            "WORLD_SIZE": environment["SLURM_NTASKS"],
            "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        }
    return None


def become_rank(
    run: RunDir, site: SitePlan, servers: Sequence[str], certs: Path, rank: Mapping[str, str]
) -> NoReturn:
    """Never returns: the process is replaced by `python -m isthmus.train`."""
    arguments = ["--run-dir", str(run.path), "--site", site.name]
    if rank["RANK"] == "0":
        line = line_folder() / "client.sock"
        client = Child(
            name=f"client-{site.name}",
            argv=[
                sys.executable,
                "-m",
                "isthmus.outer.client",
                *client_arguments(run, site, servers, certs, line),
            ],
            log=run.logs / f"client-{site.name}.log",
        )
        client.start()
        arguments += ["--line", str(line)]
    os.execve(sys.executable, [sys.executable, "-m", "isthmus.train", *arguments], {**os.environ, **rank})
