"""How much each contribution counts in a merge, as arithmetic on its record alone."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from isthmus.errors import InputError


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a contribution's weight follows from."""

    site: str
    tokens: int
    staleness: int = 0
    """Versions between its base and the one it is merged into."""
    group_tokens: tuple[int, ...] = ()
    """Tokens routed to each expert group; empty: unknown, then experts count as dense tensors do."""


def merge_weights(shares: Sequence[Share], num_groups: int) -> NDArray[np.float32]:
    """f32[contributions, 1 + num_groups]: weights for dense tensors (column 0) and for each group.

    Raw weight of a site: tokens (or those routed to the group) / sqrt(1 + staleness), summed over its
    contributions. Several contributions of one site are steps in a row: they add up, so each gets the weight
    of the whole site. Divided by the sum over the sites, in float64, before rounding: a site that is alone
    gets exactly 1. A group that saw no token gets 0 everywhere, and its tensors stay as they are.

    Raises InputError if a contribution has another number of groups.
    """
    raw = np.array([_raw(share, num_groups) for share in shares], np.float64)
    if any(not share.group_tokens for share in shares):
        raw[:, 1:] = raw[:, :1]
    sites = [share.site for share in shares]
    totals = {site: raw[[name == site for name in sites]].sum(0) for site in sorted(set(sites))}
    everything = sum(totals.values(), np.zeros(1 + num_groups))
    per_site = np.array([totals[site] for site in sites])
    return np.divide(per_site, everything, out=np.zeros_like(raw), where=everything > 0).astype(np.float32)


def _raw(share: Share, num_groups: int) -> list[float]:
    counts = share.group_tokens or (0,) * num_groups
    if len(counts) != num_groups:
        raise InputError(
            f"contribution counts tokens of {len(counts)} expert groups, the model has {num_groups}",
            where=f"site {share.site}",
            hint="do all sites run the same model and code version?",
        )
    discount = 1 / math.sqrt(1 + share.staleness)
    return [share.tokens * discount, *(count * discount for count in counts)]
