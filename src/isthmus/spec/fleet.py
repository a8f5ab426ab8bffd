"""The machines: sites with nodes and chips, and the links between sites and the parameter server."""

import msgspec

from isthmus.units import Bandwidth, Seconds


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    count: int = 1
    chips: dict[str, int] = {"cpu": 1}
    """Chip family or model -> chips per node, as `ascend910b: 8`. One rank per chip."""


class LinkSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bandwidth: Bandwidth = Bandwidth(1e9)
    delay: Seconds = Seconds(0.0)
    """Round trip to the parameter server."""
    shape: bool = False
    """Emulate this link on one machine (demo, tests): a local relay delays and limits the bytes."""


class SiteSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    nodes: list[NodeSpec] = [NodeSpec()]
    link: LinkSpec = LinkSpec()

    @property
    def num_ranks(self) -> int:
        return sum(node.count * sum(node.chips.values()) for node in self.nodes)


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bind: str = "127.0.0.1:0"
    """Where the parameter server listens; port 0 takes a free one. Nothing beyond loopback unless asked."""
    standby: str = ""
    """host:port of a standby server, if there is one."""


class FleetSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sites: dict[str, SiteSpec] = {"local": SiteSpec()}
    server: ServerSpec = ServerSpec()
