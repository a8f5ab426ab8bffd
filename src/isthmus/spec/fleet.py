"""The machines: sites with nodes and chips, and the links between sites and the parameter server."""

import msgspec

from isthmus.spec.ranges import AtLeast1
from isthmus.units import Bandwidth, Seconds


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Machines of one kind at a site."""

    count: AtLeast1 = 1
    """How many such machines."""
    chips: dict[str, AtLeast1] = msgspec.field(default_factory=lambda: {"cpu": 1})
    """Chip family or model -> chips in each machine, as `ascend910b: 8`. One rank per chip."""


class LinkSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The way from a site to the parameter server."""

    bandwidth: Bandwidth = Bandwidth(1e9)
    """What the site may use in each direction."""
    delay: Seconds = Seconds(0.0)
    """Round trip to the parameter server."""
    shape: bool = False
    """Emulate this link on one machine (demo, tests): a local relay delays and limits the bytes."""


class SiteSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place that trains: machines with a fast network between them.

    Short form: `chips: {ascend910b: 8}` stands for one node, with `nodes: 4` for four of them.
    """

    nodes: list[NodeSpec] = msgspec.field(default_factory=lambda: [NodeSpec()])
    """The site's machines."""
    link: LinkSpec = LinkSpec()
    """Its way to the parameter server."""

    @property
    def num_ranks(self) -> int:
        return sum(node.count * sum(node.chips.values()) for node in self.nodes)


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameter server that joins the sites."""

    bind: str = "127.0.0.1:0"
    """Where it listens; port 0 takes a free one. Nothing beyond loopback unless asked."""
    standby: str = ""
    """host:port of a standby server, if there is one."""


class FleetSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of fleet.yaml."""

    sites: dict[str, SiteSpec] = msgspec.field(default_factory=lambda: {"local": SiteSpec()})
    """Site name -> site. Names are lower case, as they become file names and certificate names."""
    server: ServerSpec = ServerSpec()
    """The parameter server."""
