"""What a site's routers did over time, folded: bounded in size however long the run and large the model is.

An even share is what each expert of a layer gets where all get the same; loads are told relative to it.
"""

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add

import msgspec

from isthmus.journal.curve import Curve
from isthmus.journal.events import ExpertsCounted

MAX_COLUMNS = 240
MAX_COUNTS = 2**19
"""Counts (columns times layers times experts) kept of a site, where a model has very many experts."""
RECENT_EVENTS = 12
"""The latest, about a minute, by which a layer is judged."""
DEAD_CHOICES = 1000
"""An expert that lately got none while an even share was this many is dead. One that is given a hundredth of
an even share would miss them all once in 20,000 times."""
GAP_S = 30.0
"""A site's silence is part of the column after it unless it was longer."""

Counts = tuple[tuple[int, ...], ...]
"""By MoE layer and expert."""


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """Some stretch of time, by MoE layer."""

    start_s: float
    end_s: float
    load: Counts
    """Choices, dropped ones included."""
    dropped: tuple[int, ...]
    entropy: tuple[float, ...]
    """Mean, nats."""
    coef: tuple[float, ...]
    """Mean."""

    @property
    def choices(self) -> int:
        """Of one layer; all layers have as many."""
        return sum(self.load[0])


class LayerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One MoE layer, lately."""

    layer: int
    """Its place in the model."""
    max_load: float
    """Of the expert that is chosen most, over an even share."""
    min_load: float
    drop_rate: float
    coef: float
    """Weight of the balance loss."""
    entropy: float
    """Of the gate, over that of an even gate."""
    similarity: float
    """Mean cosine of the experts' weights, from the last evaluation."""
    dead: list[int]
    """Experts that got nothing while an even share was at least `DEAD_CHOICES`."""


class Experts(msgspec.Struct, frozen=True, kw_only=True):
    """Of one site. The last column may still be filling: it holds `count` of `stride` events."""

    layers: tuple[int, ...] = ()
    columns: tuple[Column, ...] = ()
    stride: int = 1
    count: int = 0
    recent: tuple[Column, ...] = ()
    busy_s: float = 0.0
    """Time in steps up to the last column's end."""
    similarity: Curve = Curve()
    """(wall_s, similarity of each layer)"""
    last_similarity: tuple[float, ...] = ()

    def add(self, event: ExpertsCounted, busy_s: float) -> "Experts":
        """With one more event. busy_s: the site's time in steps so far, which tells when the event's began.

        What came before is dropped if the model has another shape; an event without layers says nothing.
        """
        if not event.load:
            return self
        layers = tuple(event.layers)
        if self.columns and (self.layers, _shape(self.columns[-1].load)) != (layers, _shape(event.load)):
            return Experts(busy_s=self.busy_s).add(event, busy_s)
        began_s = event.wall_s - max(0.0, busy_s - self.busy_s)
        if self.columns and began_s - self.columns[-1].end_s < GAP_S:
            began_s = self.columns[-1].end_s
        new = _column(event, began_s)
        columns, stride, count = _thinned(*self._appended(new))
        return Experts(
            layers=layers,
            columns=columns,
            stride=stride,
            count=count,
            recent=(*self.recent, new)[-RECENT_EVENTS:],
            busy_s=busy_s,
            similarity=self.similarity.add(event.wall_s, *event.similarity)
            if event.similarity
            else self.similarity,
            last_similarity=tuple(event.similarity) or self.last_similarity,
        )

    def _appended(self, new: Column) -> tuple[tuple[Column, ...], int, int]:
        if 0 < self.count < self.stride:
            return (*self.columns[:-1], merged(self.columns[-1], new)), self.stride, self.count + 1
        return (*self.columns, new), self.stride, 1


def merged(first: Column, second: Column) -> Column:
    """Both as one: counts add up, means are weighted by the choices."""
    ours, theirs = first.choices, second.choices
    share = theirs / (ours + theirs) if ours + theirs else 0.5

    def mean(a: Sequence[float], b: Sequence[float]) -> tuple[float, ...]:
        return tuple(x + share * (y - x) for x, y in zip(a, b, strict=True))

    return Column(
        start_s=min(first.start_s, second.start_s),
        end_s=max(first.end_s, second.end_s),
        load=tuple(tuple(map(add, *loads)) for loads in zip(first.load, second.load, strict=True)),
        dropped=tuple(map(add, first.dropped, second.dropped)),
        entropy=mean(first.entropy, second.entropy),
        coef=mean(first.coef, second.coef),
    )


def counting(sites: Iterable[Experts]) -> list[Experts]:
    """Those that have told something, of a model like the first one's."""
    known = [(site, (site.layers, _shape(site.recent[-1].load))) for site in sites if site.recent]
    return [site for site, shape in known if shape == known[0][1]]


def layer_figures(sites: Iterable[Experts]) -> list[LayerFigures]:
    """Of the sites together, in the order of the layers; empty for a model without MoE layers."""
    known = counting(sites)
    if not known:
        return []
    lately = reduce(merged, (column for site in known for column in site.recent))
    measured = [(site.recent[-1].end_s, site.last_similarity) for site in known if site.last_similarity]
    similarity = max(measured)[1] if measured else (math.nan,) * len(lately.load)
    return [
        _of_layer(lately, i, layer, of_layer)
        for i, (layer, of_layer) in enumerate(zip(known[0].layers, similarity, strict=True))
    ]


def relative(load: Sequence[float]) -> list[float]:
    """The experts' loads over an even share; 1 for all where nothing was chosen."""
    even = sum(load) / len(load)
    return [count / even if even else 1.0 for count in load]


def evenness(entropy: float, num_experts: int) -> float:
    """The entropy, in nats, over that of an even gate."""
    return entropy / math.log(num_experts) if num_experts > 1 else 1.0


def _shape(counts: Sequence[Sequence[int]]) -> list[int]:
    return [len(each) for each in counts]


def _column(event: ExpertsCounted, start_s: float) -> Column:
    return Column(
        start_s=min(start_s, event.wall_s),
        end_s=event.wall_s,
        load=tuple(map(tuple, event.load)),
        dropped=tuple(map(sum, event.dropped)),
        entropy=tuple(event.entropy),
        coef=tuple(event.coef),
    )


def _thinned(columns: tuple[Column, ...], stride: int, count: int) -> tuple[tuple[Column, ...], int, int]:
    """Neighbours in one where the columns are as many as there may be and the last one is full."""
    counts = sum(map(len, columns[-1].load))
    most = max(2, min(MAX_COLUMNS, MAX_COUNTS // counts) // 2 * 2)
    if len(columns) < most or count < stride:
        return columns, stride, count
    pairs = zip(columns[::2], columns[1::2], strict=True)
    return tuple(merged(*pair) for pair in pairs), 2 * stride, 2 * stride


def _of_layer(lately: Column, i: int, layer: int, similarity: float) -> LayerFigures:
    loads, choices = relative(lately.load[i]), lately.choices
    is_enough = choices >= DEAD_CHOICES * len(loads)
    return LayerFigures(
        layer=layer,
        max_load=max(loads),
        min_load=min(loads),
        drop_rate=lately.dropped[i] / max(1, choices),
        coef=lately.coef[i],
        entropy=evenness(lately.entropy[i], len(loads)),
        similarity=similarity,
        dead=[expert for expert, load in enumerate(loads) if not load and is_enough],
    )
