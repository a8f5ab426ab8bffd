"""Latency and rate of the collectives that training uses, among some or all ranks of this machine."""

import math
from collections.abc import Callable, Sequence

import msgspec
import torch

from isthmus.chips import Chip
from isthmus.comm.collective import Collective
from isthmus.comm.local import free_port
from isthmus.comm.site_group import SiteRank, init_site_group
from isthmus.planner.probed.profile import CollectiveRate, Kind
from isthmus.train.probe.timing import elapsed_s, time_calls

SIZES = [4 << 10, 64 << 10, 512 << 10, 4 << 20, 16 << 20]
"""Bytes; data parallelism sends buckets of 4 MiB."""
TIMEOUT_S = 120.0


def world_sizes(ranks: int) -> list[int]:
    """Of the groups to measure: all up to four, then powers of two, and `ranks` itself."""
    sizes = {size for size in range(2, ranks + 1) if size <= 4 or size & (size - 1) == 0}
    return sorted(sizes | ({ranks} if ranks > 1 else set()))


def collective_rates(
    chip: Chip, place: SiteRank, group: Collective, budget_s: float
) -> tuple[list[CollectiveRate], Collective]:
    """Each collective of the adapter in groups of each size; and a new group of all, as `group` is closed.

    A process has one group at a time, so that they are opened one after the other; ranks that a group does
    not hold wait in the next one. Every rank gets the rates that rank 0 saw.
    """
    if place.world_size == 1:
        return [], group
    worlds = world_sizes(place.world_size)
    ports = group.share([free_port() for _ in [*worlds, 0]])
    device = chip.device(place.local_rank)
    group.barrier()
    group.close()
    rates: list[CollectiveRate] = []
    for world, port in zip([*worlds, place.world_size], ports, strict=True):
        is_last = port == ports[-1]
        if place.rank < world:
            inside = msgspec.structs.replace(place, world_size=world, master_port=port)
            group = init_site_group(inside, chip.backend, TIMEOUT_S, device)
            if not is_last:
                rates += _rates(chip, group, device, budget_s / len(worlds))
                group.barrier()
                group.close()
    return rates, group


def _rates(chip: Chip, group: Collective, device: str, budget_s: float) -> list[CollectiveRate]:
    kinds: dict[Kind, Callable[[torch.Tensor], None]] = {
        "all_reduce": group.all_reduce_,
        "broadcast": group.broadcast_,
    }
    return [_rate(kind, chip, group, (call, device, budget_s / len(kinds))) for kind, call in kinds.items()]


def _rate(
    kind: Kind, chip: Chip, group: Collective, how: tuple[Callable[[torch.Tensor], None], str, float]
) -> CollectiveRate:
    call, device, budget_s = how
    points: list[tuple[int, float]] = []
    for size in SIZES:
        tensor = torch.zeros(size // 4, device=device)
        group.barrier()
        once_s = elapsed_s(lambda tensor=tensor: (call(tensor), call(tensor), chip.synchronize())) / 2
        wanted = max(3, min(40, int(budget_s / len(SIZES) / max(once_s, 1e-5))))
        (samples,) = group.share([wanted])
        times = sorted(time_calls(chip, lambda tensor=tensor: call(tensor), 1, samples))
        points.append((size, times[len(times) // 2]))
    latency_s, gb_s = fit(points)
    return CollectiveRate(kind=kind, ranks=group.world_size, latency_s=latency_s, gb_s=gb_s)


def fit(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(latency_s, 10^9 bytes/s) of seconds = latency + bytes / rate: least squares of the relative error."""
    rows = [(1 / seconds, size / seconds) for size, seconds in points]
    aa = sum(a * a for a, _ in rows)
    ab = sum(a * b for a, b in rows)
    bb = sum(b * b for _, b in rows)
    a1, b1 = sum(a for a, _ in rows), sum(b for _, b in rows)
    determinant = aa * bb - ab * ab
    latency_s = (a1 * bb - b1 * ab) / determinant if determinant > 0 else 0.0
    latency_s = min(max(latency_s, 0.0), min(seconds for _, seconds in points))
    per_byte = (b1 - latency_s * ab) / bb
    return latency_s, 1e-9 / max(per_byte, math.ulp(1.0))
