"""A run as the belief sees it: its ideal seconds, which groups it belongs to, and where it lies."""

import zlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from isthmus.planner.cost.factors import COMPONENTS
from isthmus.planner.cost.table import Floats

FACTORS: tuple[str, ...] = (
    *COMPONENTS, "send", "bubble", "sync", "gather", "optimizer", "overhead", "jitter",
)  # fmt: skip
"""In the order of the belief's vector theta, the logarithms of `cost.factors.Factors`."""
IN_STAGE = len(COMPONENTS) + 1
"""The first of them are spent inside a stage: the components and `send`."""


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of a step with all factors 1."""

    compute: list[float]
    """[IN_STAGE]: all micro-batches of the slowest stage."""
    bubble: list[float] = []
    """[IN_STAGE]: one micro-batch of the other stages, over the chunks; empty: no pipeline."""
    sync: float = 0.0
    gather: float = 0.0
    window: float = 1.0
    """Part of the compute that the exchange runs beside."""
    optimizer: float = 0.0
    doublings: float = 0.0
    """log2 of the nodes."""


class Groups(msgspec.Struct, frozen=True, kw_only=True):
    """What a run shares with others. Empty: nothing is known of it, so it shares nothing."""

    framework: str = ""
    family: str = ""
    release: str = ""
    generation: str = ""
    chip: str = ""
    recipe: str = ""
    """Format of the matrix products as the run calls it: 'mxfp8' is not 'fp8'."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    features: Features
    groups: Groups
    place: list[float]
    """Coordinates that residuals are smooth over: `PLACE`."""
    when: float = 0.0
    """Years since the release that the file counts from."""
    doubt: float = 0.0
    """Standard deviation of log seconds by what is not known of the run."""


PLACE: tuple[tuple[str, float], ...] = (
    ("log width of a chip's part of the layer", 1.0),
    ("log hidden size", 1.0),
    ("log tokens of a micro-batch on a chip", 1.5),
    ("log sequence length", 1.5),
    ("log replicas", 2.0),
    ("log stages", 1.0),
    ("log chunks", 1.0),
    ("log micro-batches", 2.0),
    ("log tensor-parallel degree", 1.0),
    ("log experts", 1.5),
    ("log expert-parallel degree", 1.5),
    ("recompute: 0 none, 1/2 selective, 1 full", 1.0),
    ("layers / 40", 1.0),
)


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A measured run."""

    id: str
    source: str
    query: Query
    step_s: float
    model: str = ""
    tokens: float = 0.0
    """Of one chip in the step."""


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """Queries as arrays over [query]."""

    compute: Floats
    bubble: Floats
    sync: Floats
    gather: Floats
    window: Floats
    optimizer: Floats
    doublings: Floats
    place: Floats
    when: Floats
    doubt: Floats
    groups: dict[str, NDArray[np.int64]]
    """A number for each name; 0: not known."""

    @property
    def size(self) -> int:
        return len(self.sync)


def design(queries: list[Query]) -> Design:
    features = [each.features for each in queries]
    none = [0.0] * IN_STAGE

    def column(name: str) -> Floats:
        return np.array([getattr(each, name) for each in features], dtype=float)

    return Design(
        compute=np.array([each.compute for each in features], dtype=float).reshape(-1, IN_STAGE),
        bubble=np.array([each.bubble or none for each in features], dtype=float).reshape(-1, IN_STAGE),
        sync=column("sync"),
        gather=column("gather"),
        window=column("window"),
        optimizer=column("optimizer"),
        doublings=column("doublings"),
        place=np.array([each.place for each in queries], dtype=float).reshape(-1, len(PLACE)),
        when=np.array([each.when for each in queries], dtype=float),
        doubt=np.array([each.doubt for each in queries], dtype=float),
        groups={
            name: np.array([_number(getattr(each.groups, name)) for each in queries], dtype=np.int64)
            for name in Groups.__struct_fields__
        },
    )


def _number(name: str) -> int:
    """The same for equal names in any process."""
    return zlib.crc32(name.encode()) + 1 if name else 0
