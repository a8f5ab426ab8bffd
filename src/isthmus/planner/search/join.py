"""How sites are joined to one run by the parameter server: H, codec, and who is worth having.

A push travels while training goes on, so a link costs nothing as long as H inner steps take longer than the
transfer. A larger H costs quality (`isthmus bench outer` measures how much), so it is the smallest that hides
the slowest link; a narrower codec comes before a larger H.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from isthmus.planner.link import payload_bytes, shared_link, transfer_s
from isthmus.planner.make import one_codec
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.run import USUAL_INNER_STEPS, Codec, OuterSpec
from isthmus.units import Bandwidth, Seconds

MANY_INNER_STEPS = 100
"""From here on int4 is tried before H grows further."""
MOST_INNER_STEPS = 500
"""The most that DiLoCo was shown to train well with (arXiv 2311.08105, fig. 5)."""
FEWEST_WINDOWS = 20
"""Windows that a budget should have, so that the sites learn from each other."""
MARGIN = 1.25
"""By which H steps outlast the transfer."""


class Join(NamedTuple):
    """The outer loop that was chosen."""

    inner_steps: int
    codec: Codec
    down_codec: Codec
    left_out: dict[str, str]
    """Site -> why it is not worth having."""
    reasons: list[str]


def join_sites(
    fleet: FleetSpec, outer: OuterSpec, step_s: Mapping[str, float], num_params: int, steps: int
) -> Join:
    """`step_s`: seconds of an inner step by site; `steps`: inner steps that the budget gives each site.

    What the run fixes (`outer.inner_steps`, codecs) is kept, and then no site is left out for its link.
    """
    if len(step_s) == 1:
        return Join(
            outer.inner_steps or _few(steps),
            one_codec(outer.codec, "int8"),
            one_codec(outer.down_codec, "int8"),
            {},
            [],
        )
    choices: list[Codec] = ["int8", "int4"] if outer.codec == "auto" else [outer.codec]
    needed: dict[str, int] = {}
    codec = choices[0]
    for codec in choices:
        down = one_codec(outer.down_codec, codec)
        needed = {
            site: inner_steps_to_hide(site, fleet, (codec, down), num_params, each_s)
            for site, each_s in step_s.items()
        }
        if max(needed.values()) <= MANY_INNER_STEPS:
            break
    down_codec = one_codec(outer.down_codec, codec)
    if outer.inner_steps:
        return Join(
            outer.inner_steps, codec, down_codec, {}, [f"H {outer.inner_steps}: as outer.inner_steps says"]
        )
    far = {site: steps_ for site, steps_ in needed.items() if steps_ > MOST_INNER_STEPS}
    if len(far) == len(needed):
        far = {}
    left_out = {
        site: f"its link hides behind {steps_} inner steps at least, more than {MOST_INNER_STEPS}"
        for site, steps_ in far.items()
    }
    slowest = max((site for site in needed if site not in far), key=lambda site: needed[site])
    hiding = max(_few(steps), min(needed[slowest], MOST_INNER_STEPS))
    why = (
        f"H {hiding} with {codec}: site {slowest} needs {needed[slowest]} inner steps of "
        f"{Seconds(step_s[slowest])} to hide its link of {Bandwidth(shared_link(fleet, slowest).bandwidth)}"
    )
    return Join(hiding, codec, down_codec, left_out, [why])


def inner_steps_to_hide(
    site: str, fleet: FleetSpec, codecs: tuple[Codec, Codec], num_params: int, step_s: float
) -> int:
    """Steps that a push and its answer take, with a margin."""
    block = 128
    up, down = (payload_bytes(codec, num_params, block) for codec in codecs)
    return max(1, math.ceil(MARGIN * transfer_s(shared_link(fleet, site), up, down) / step_s))


def _few(steps: int) -> int:
    """The usual H, or less where the budget would be over after a few windows."""
    return max(1, min(USUAL_INNER_STEPS, steps // FEWEST_WINDOWS))
