"""The machines: sites with nodes and chips, and the links between sites and the parameter server."""

import msgspec

from isthmus.spec.ranges import AtLeast1, NonNegative, Positive
from isthmus.units import Bandwidth, Bytes, Seconds


class ChipSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chip that the planner does not know, or knows otherwise: what differs from `like`."""

    like: str = ""
    """Chip of the catalogue whose other values hold; empty: none, so that all must be given."""
    fp32_tflops: NonNegative = 0.0
    """Peak of dense products in fp32, 10^12 FLOP/s; 0: as `like`. So with the fields below."""
    bf16_tflops: NonNegative = 0.0
    """Peak in bf16 with fp32 accumulation."""
    fp8_tflops: NonNegative = 0.0
    """Peak in fp8."""
    memory: Bytes = Bytes(0)
    """Of one chip."""
    memory_bandwidth: Bandwidth = Bandwidth(0)
    """Of its memory, as '16 Tbps' for 2 TB/s."""
    link: Bandwidth = Bandwidth(0)
    """To the other chips of its node, one direction."""
    nic: Bandwidth = Bandwidth(0)
    """Its part of the node's network, one direction."""
    collectives: str = ""
    """Library of its collectives: nccl, hccl, gloo, ..."""


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Machines of one kind at a site."""

    count: AtLeast1 = 1
    """How many such machines."""
    chips: dict[str, AtLeast1] = msgspec.field(default_factory=lambda: {"cpu": 1})
    """Chip family or model -> chips in each machine, as `ascend910b: 8`. One rank per chip."""
    speed: Positive = 1.0
    """Of these machines relative to others with the same chips; a throttled node has less than 1."""
    price: NonNegative = 0.0
    """Of one chip for an hour, in any currency; 0: not counted."""
    mtbf: Seconds = Seconds(0.0)
    """Mean time between failures of one machine; 0: the planner's default."""


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


class TrunkSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A long-distance line that several sites share: their traffic to each other and to the server."""

    sites: list[str]
    """Sites whose links pass it."""
    bandwidth: Bandwidth
    """Of the line, in each direction, for all of them together."""
    delay: Seconds = Seconds(0.0)
    """Round trip that it adds to the sites' own."""


class FleetSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of fleet.yaml."""

    sites: dict[str, SiteSpec] = msgspec.field(default_factory=lambda: {"local": SiteSpec()})
    """Site name -> site. Names are lower case, as they become file names and certificate names."""
    server: ServerSpec = ServerSpec()
    """The parameter server."""
    trunks: dict[str, TrunkSpec] = {}
    """Lines that several sites share, by name."""
    chips: dict[str, ChipSpec] = {}
    """Chips by the name that `nodes` give them, where the planner's catalogue lacks or misjudges them."""
