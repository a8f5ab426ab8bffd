"""A fleet as pools: the like chips of one site, however many nodes they are. The search knows no nodes."""

from collections.abc import Mapping

import msgspec

from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.chips.find import find_chip
from isthmus.planner.chips.measured import with_profile
from isthmus.planner.cost.network import Network
from isthmus.planner.probed.profile import Profile
from isthmus.spec.fleet import FleetSpec


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Chips of one kind and speed at one site."""

    site: str
    name: str
    """As the fleet calls the chip."""
    chip: ChipModel
    nodes: int
    per_node: int
    speed: float = 1.0
    price: float = 0.0
    """Of a chip for an hour."""

    @property
    def num_chips(self) -> int:
        return self.nodes * self.per_node

    @property
    def key(self) -> tuple[str, str, int, int, float]:
        return (self.site, self.name, self.nodes, self.per_node, self.speed)

    @property
    def network(self) -> Network:
        return Network.of(self.chip)

    def take(self, nodes: int) -> "Pool":
        """A part of it."""
        return msgspec.structs.replace(self, nodes=nodes)


def pools_of(fleet: FleetSpec, site: str, profiles: Mapping[str, Profile] | None = None) -> list[Pool]:
    """The site's pools, most memory first. InputError where a chip is unknown. `profiles`: what was measured,
    by the chip's name in the fleet."""
    counts: dict[tuple[str, int, float, float], int] = {}
    for node in fleet.sites[site].nodes:
        for name, per_node in node.chips.items():
            key = (name, per_node, node.speed, node.price)
            counts[key] = counts.get(key, 0) + node.count
    pools = [
        Pool(
            site=site,
            name=name,
            chip=_chip(name, per_node, fleet, profiles or {}),
            nodes=nodes,
            per_node=per_node,
            speed=speed,
            price=price,
        )
        for (name, per_node, speed, price), nodes in counts.items()
    ]
    return sorted(pools, key=lambda pool: (-pool.chip.memory_gib, pool.name, -pool.speed))


def _chip(name: str, per_node: int, fleet: FleetSpec, profiles: Mapping[str, Profile]) -> ChipModel:
    chip = find_chip(name, fleet)
    if name in profiles:
        chip = with_profile(chip, profiles[name])
    return msgspec.structs.replace(chip, per_node=per_node)
