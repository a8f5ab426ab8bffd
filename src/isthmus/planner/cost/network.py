"""Latency and bandwidth of collectives: alpha-beta, for groups that lie inside a node or over several.

Ranks are laid out as Megatron-LM does by default, innermost first: tp, cp, dp (ep inside it), pp. A group is
given by its size and its stride, the distance in ranks between two neighbours of the group.
"""

from typing import NamedTuple

import msgspec

from isthmus.planner.chips.chip import ChipModel

LINK_LATENCY_S = 4e-6
NIC_LATENCY_S = 12e-6
"""Of one message between two chips, with the library's own part; NCCL over NVLink and over RDMA."""
BRIDGE = 0.5
"""Part of the network's bandwidth between chips of unlike collective libraries: two copies through host
memory instead of none. Believed; `isthmus probe` does not measure it."""


class Line(NamedTuple):
    """What a group's neighbours are joined by."""

    latency_s: float
    gb_s: float
    """Of one chip, one direction."""


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A site's network as one of its chips sees it."""

    domain: int
    """Chips that the fast link joins."""
    link: Line
    nic: Line

    @classmethod
    def of(cls, chip: ChipModel) -> "Network":
        """As the datasheet has it."""
        return cls(
            domain=chip.node_domain or chip.per_node,
            link=Line(LINK_LATENCY_S, chip.link_gb_s),
            nic=Line(NIC_LATENCY_S, chip.nic_gb_s),
        )

    def line(self, size: int, stride: int) -> Line:
        """The slowest line of a group. Over nodes, each of the group's chips in a node brings its own NIC,
        and the library runs as many rings, so they add up to at most the link's bandwidth."""
        if (size - 1) * stride < self.domain:
            return self.link
        per_node = max(1, self.domain // stride)
        return Line(self.nic.latency_s, min(self.link.gb_s, per_node * self.nic.gb_s))


def all_reduce_s(line: Line, size: int, num_bytes: float) -> float:
    """Ring: 2 (n - 1) messages of bytes / n (Patarasuk and Yuan 2009)."""
    return 2 * all_gather_s(line, size, num_bytes)


def all_gather_s(line: Line, size: int, num_bytes: float) -> float:
    """Ring, also of reduce-scatter: n - 1 messages of bytes / n, with `num_bytes` the whole tensor."""
    return (size - 1) * (line.latency_s + num_bytes / size / (line.gb_s * 1e9)) if size > 1 else 0.0


def all_to_all_s(line: Line, size: int, num_bytes: float) -> float:
    """Each chip sends (n - 1) / n of its `num_bytes`, to all others at once."""
    if size == 1:
        return 0.0
    return line.latency_s * min(size - 1, 8) + (size - 1) / size * num_bytes / (line.gb_s * 1e9)


def send_s(line: Line, num_bytes: float) -> float:
    return line.latency_s + num_bytes / (line.gb_s * 1e9)
