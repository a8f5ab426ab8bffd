"""Join the ranks of one site, as torchrun, srun or the agent started them."""

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import msgspec
import torch.distributed as dist
from torch.distributed import distributed_c10d

from isthmus.comm.collective import Collective, SoloCollective, TorchCollective
from isthmus.comm.hosts import first_host
from isthmus.comm.posted_store import PostedStore
from isthmus.errors import InputError, UnreachableError
from isthmus.heal.lifeline import Lifeline
from isthmus.heal.messages import Form

_SIOCGIFADDR = 0x8915


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Of waiting for others."""

    meet_s: float
    """Until all are there."""
    collective_s: float
    """In one collective: longer than rank 0 may keep the others waiting."""


class SiteRank(msgspec.Struct, frozen=True, kw_only=True):
    """A process's place in its site."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Place on its node: the chip it takes."""
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    """Where rank 0 listens; not used by a rank on its own."""


def site_rank(environ: Mapping[str, str]) -> SiteRank:
    """Read torchrun's variables, or else srun's; a plain process is a site of one rank.

    InputError if a variable is missing, is no number, or does not fit the others.
    """
    if "RANK" in environ or "WORLD_SIZE" in environ:
        place = _from_torchrun(environ)
    elif "SLURM_PROCID" in environ and "SLURM_STEP_ID" in environ:
        place = _from_slurm(environ)
    else:
        return SiteRank()
    if not 0 <= place.rank < place.world_size:
        raise InputError(
            f"rank {place.rank} does not lie in a world of {place.world_size}",
            where="environment",
            hint="start all ranks by one launcher: `isthmus train`, torchrun or srun",
        )
    return place


def _from_torchrun(environ: Mapping[str, str]) -> SiteRank:
    rank, world_size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    if world_size == 1:
        return SiteRank(rank=rank, local_rank=_number(environ, "LOCAL_RANK", 0))
    return SiteRank(
        rank=rank,
        world_size=world_size,
        local_rank=_number(environ, "LOCAL_RANK"),
        master_addr=_text(environ, "MASTER_ADDR"),
        master_port=_number(environ, "MASTER_PORT"),
    )


def _from_slurm(environ: Mapping[str, str]) -> SiteRank:
    nodes = environ.get("SLURM_STEP_NODELIST") or _text(environ, "SLURM_NODELIST")
    job = _number(environ, "SLURM_JOB_ID") * 1000 + _number(environ, "SLURM_STEP_ID")
    return SiteRank(
        rank=_number(environ, "SLURM_PROCID"),
        world_size=environ_world(environ),
        local_rank=_number(environ, "SLURM_LOCALID"),
        master_addr=environ.get("MASTER_ADDR") or first_host(nodes),
        master_port=_number(environ, "MASTER_PORT", 20_000 + job % 10_000),
    )


def environ_world(environ: Mapping[str, str]) -> int:
    """srun's number of tasks in this step, or in the job on older versions."""
    return _number(environ, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS")


def _text(environ: Mapping[str, str], name: str) -> str:
    if not environ.get(name):
        raise InputError(
            f"{name} is not set, though other variables of a launcher are",
            where="environment",
            hint="start all ranks by one launcher: `isthmus train`, torchrun or srun",
        )
    return environ[name]


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in environ:
        return default
    text = _text(environ, name)
    if not text.isdigit():
        raise InputError(f"{name} is '{text}', not a number", where="environment")
    return int(text)


def form_group(
    form: Form, lifeline: Lifeline, backend: str, limits: Limits, device: str = "cpu"
) -> Collective:
    """Meet the members of a generation over the line to their keeper. One rank needs no group.

    UnreachableError if they are not all there in time, or the generation is over before.
    """
    if form.world_size == 1:
        lifeline.check(form.generation)  # a group of several hears of it from its store
        return SoloCollective()
    _bind(backend, form.address)
    store = PostedStore(lifeline, form.generation, limits.meet_s)
    # torch numbers its attempts, and the number is part of the keys: after one that failed, this process and
    # one that is new would never find each other's.
    distributed_c10d._world.group_count = 0
    try:
        dist.init_process_group(
            backend,
            store=store,
            rank=form.rank,
            world_size=form.world_size,
            timeout=timedelta(seconds=limits.collective_s),
        )
    except (RuntimeError, ValueError) as error:
        raise UnreachableError(
            f"generation {form.generation} was not formed: {str(error).splitlines()[0]}",
            where=f"rank {form.rank}",
        ) from error
    return TorchCollective(device)


def init_site_group(place: SiteRank, backend: str, timeout_s: float, device: str = "cpu") -> Collective:
    """Meet the other ranks; every collective is bounded by `timeout_s`. One rank needs no group.

    UnreachableError if they are not all there in time.
    """
    if place.world_size == 1:
        return SoloCollective()
    if _is_loopback(place.master_addr):
        _bind(backend, place.master_addr)
    try:
        dist.init_process_group(
            backend,
            init_method=f"tcp://{_bracketed(place.master_addr)}:{place.master_port}",
            rank=place.rank,
            world_size=place.world_size,
            timeout=timedelta(seconds=timeout_s),
        )
    except (RuntimeError, ValueError) as error:
        raise UnreachableError(
            f"rank {place.rank} of {place.world_size} could not join its site: {str(error).splitlines()[0]}",
            where=f"{place.master_addr}:{place.master_port}",
            hint=f"all ranks must start within {timeout_s:g} s and reach this address; "
            "if the port is taken, set another MASTER_PORT",
        ) from error
    return TorchCollective(device)


def _bind(backend: str, address: str) -> None:
    """gloo would listen on whatever address the host's name has, which may be none, or a public one. It takes
    an interface: the one that has this node's address."""
    if backend == "gloo" and (name := interface_of(address)):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_of(address: str) -> str:
    """Of this machine; '' where none has this address, or it is a name."""
    if _is_loopback(address):
        return _loopback_interface()
    return next((name for name, has in _interfaces() if has == address), "")


def _interfaces() -> Iterator[tuple[str, str]]:
    """Name and address of each, by IPv4 (netdevice(7), SIOCGIFADDR) and then IPv6."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                yield name, socket.inet_ntoa(answer[20:24])
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            address, *_, name = line.split()
            yield name, str(ipaddress.IPv6Address(int(address, 16)))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _loopback_interface() -> str:
    """'lo' on Linux, 'lo0' on BSD and macOS."""
    names = [name for _, name in socket.if_nameindex()]
    return "lo" if "lo" in names else "lo0"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
