"""One rank that torchrun or srun has started: this process becomes the rank, and rank 0 starts the site's
client first.
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from isthmus import leash
from isthmus.agent.children import Child
from isthmus.agent.launch import client_arguments
from isthmus.comm.hosts import first_host
from isthmus.errors import InputError, UnreachableError
from isthmus.outer.bridge import line_folder
from isthmus.planner.plan import SitePlan
from isthmus.rundir import RunDir
from isthmus.spec.fleet import SiteSpec
from isthmus.wire.handshake import Address

FIRST_PORT = 20_000
FIRST_RANK_S = 600.0
"""How long a node's other ranks wait for its first one to prepare the run folder."""


@dataclass(frozen=True)
class Place:
    """Which rank of its site a process is."""

    rank: int
    world_size: int
    local_rank: int

    @property
    def is_first_of_node(self) -> bool:
        return self.local_rank == 0


def rank_place(environment: Mapping[str, str]) -> Place | None:
    """As torchrun or srun has set it, None in a process of neither. Raises InputError for what is no number.

    One task of srun is no rank of several: it launches its site as anywhere else.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        step = "SLURM_STEP_NUM_TASKS"
        names = ("SLURM_PROCID", step if step in environment else "SLURM_NTASKS", "SLURM_LOCALID")
    else:
        return None
    values = [environment.get(name, "0") for name in names]
    if not all(value.isdecimal() for value in values):
        raise InputError(f"{', '.join(names)} are {', '.join(values)}", where="environment")
    place = Place(*map(int, values))
    return place if place.world_size > 1 or names[0] == "RANK" else None


def check_place(place: Place, site: SitePlan) -> None:
    """Raises InputError unless each chip of the site has its rank."""
    if place.world_size != site.num_ranks:
        raise InputError(
            f"{place.world_size} ranks were started for site '{site.name}', which has {site.num_ranks} chips",
            where=f"fleet.yaml, sites.{site.name}",
            hint="start one rank for each chip, or give the fleet file as many chips as there are ranks",
        )


def keeper_address(
    place: Place, site: SitePlan, spec: SiteSpec, environment: Mapping[str, str]
) -> Address | None:
    """Where the site's first node listens, if each task of the launcher is a node, whose agent starts its
    ranks. None where each is a rank: then the launcher restarts them.
    """
    nodes = sum(node.count for node in spec.nodes)
    if place.world_size != nodes or nodes in (1, site.num_ranks):
        return None
    host = environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_STEP_NODELIST", "localhost"))
    job = int(environment.get("SLURM_JOB_ID", "0")) * 1000 + int(environment.get("SLURM_STEP_ID", "0"))
    port = int(environment.get("MASTER_PORT", FIRST_PORT - 1 + job % 10_000)) + 1
    try:
        return socket.gethostbyname(host), port
    except OSError as error:
        raise UnreachableError(f"the site's first node is not known: {error}", where=host) from None


def wait_until(there: Callable[[], bool], where: Path) -> None:
    """Until the first rank of this node has written the run. Raises UnreachableError if it does not."""
    deadline = time.monotonic() + FIRST_RANK_S
    while not there():
        if time.monotonic() > deadline:
            raise UnreachableError("the first rank of this node has not written the run", where=str(where))
        time.sleep(0.05)


def become_rank(run: RunDir, site: SitePlan, servers: Sequence[str], certs: Path, place: Place) -> NoReturn:
    """Never returns: the process is replaced by `python -m isthmus.train`."""
    arguments = ["--run-dir", str(run.path), "--site", site.name]
    if place.rank == 0:
        line = line_folder() / "client.sock"
        client = Child(
            name=f"client-{site.name}",
            argv=leash.command("isthmus.outer.client", client_arguments(run, site, servers, certs, line)),
            log=run.logs / f"client-{site.name}.log",
        )
        client.start()
        arguments += ["--line", str(line)]
    os.execv(sys.executable, [sys.executable, "-m", "isthmus.train", *arguments])
