"""Arithmetic of a site's link: bytes of a push, time on the wire, streams, and the delay that hides it."""

import math

from msgspec.structs import replace

from isthmus.spec.fleet import FleetSpec, LinkSpec
from isthmus.units import Bandwidth, Seconds

USABLE = 0.8
"""Part of a link's bandwidth that payload gets, over days and next to other traffic."""
STREAM_WINDOW_BYTES = 4_000_000
"""What one TCP stream keeps in flight with common kernel limits."""
MAX_STREAMS = 16

_BITS = {"fp32": 32, "bf16": 16, "int8": 8, "int4": 4}
_SCALE_BITS = 16


def payload_bytes(codec: str, num_values: int, block_size: int) -> int:
    """Bytes of `num_values` numbers in `codec`: the integer formats add one 16-bit scale per block."""
    scales = math.ceil(num_values / block_size) if codec in ("int8", "int4") else 0
    return math.ceil((num_values * _BITS[codec] + scales * _SCALE_BITS) / 8)


def transfer_s(link: LinkSpec, bytes_up: int, bytes_down: int) -> float:
    """Seconds from a push to its result: payload up, then down, and a round trip for each."""
    return (bytes_up + bytes_down) / (USABLE * link.bandwidth.bytes_per_s) + 2 * link.delay


def derive_streams(link: LinkSpec) -> int:
    """Enough streams to fill the link's bandwidth-delay product, and one more."""
    in_flight = link.bandwidth.bytes_per_s * link.delay
    return min(MAX_STREAMS, math.ceil(in_flight / STREAM_WINDOW_BYTES) + 1)


def derive_delay(transfer_s: float, step_s: float, inner_steps: int) -> int:
    """Inner steps from a push to taking up its result so that nobody waits; at most `inner_steps`."""
    return min(inner_steps, math.ceil(transfer_s / step_s) + 1)


def shared_link(fleet: FleetSpec, site: str) -> LinkSpec:
    """The site's link as it is while every site on its trunks sends at once."""
    link = fleet.sites[site].link
    bandwidth, delay = link.bandwidth, link.delay
    for trunk in fleet.trunks.values():
        if site in trunk.sites:
            bandwidth = min(bandwidth, Bandwidth(trunk.bandwidth / len(trunk.sites)))
            delay = Seconds(delay + trunk.delay)
    return replace(link, bandwidth=bandwidth, delay=delay)
