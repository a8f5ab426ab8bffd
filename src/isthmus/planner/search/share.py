"""A site's batch shared out among given templates, so that all end at about the same time."""

from collections.abc import Sequence

from msgspec.structs import replace

from isthmus.planner.layout import Layout
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.template import Job, Template, evaluate


def strength(pool: Pool) -> float:
    return pool.speed * max(pool.chip.bf16_tflops, pool.chip.fp32_tflops)


def share_batch(job: Job, templates: Sequence[Template]) -> list[Template]:
    """Micro-batches for each template's replicas, so that all end at about the same time.

    T_i(m) = a_i m + c_i; the least T at which the replicas take the whole batch is found by bisection.
    Templates that would get nothing are left out.
    """
    counts = shares(templates, job.batch)
    return [_with_micro_batches(job, each, m) for each, m in zip(templates, counts, strict=True) if m > 0]


def shares(templates: Sequence[Template], batch: int) -> list[int]:
    """Micro-batches of each template's replicas with which all end at about the same time (`share_batch`)."""
    if len(templates) == 1:
        return [_needed(templates[0].layout, batch)]
    rates = [_line(template) for template in templates]
    low, high = (
        0.0,
        max(a * _needed(t.layout, batch) + c for (a, c), t in zip(rates, templates, strict=True)),
    )
    for _ in range(60):
        middle = (low + high) / 2
        if _taken(templates, _counts(rates, templates, middle)) >= batch:
            high = middle
        else:
            low = middle
    return _counts(rates, templates, high)


def _line(template: Template) -> tuple[float, float]:
    """(a, c) of T(m) = a m + c."""
    each_s = template.time.compute_s / template.layout.micro_batches
    return each_s, template.step_s - template.time.compute_s


def _counts(rates: Sequence[tuple[float, float]], templates: Sequence[Template], limit_s: float) -> list[int]:
    counts = []
    for (each_s, rest_s), template in zip(rates, templates, strict=True):
        count = max(0, int((limit_s - rest_s) / each_s))
        if template.layout.virtual > 1:
            count -= count % template.layout.pp
        counts.append(count)
    return counts


def _taken(templates: Sequence[Template], counts: Sequence[int]) -> int:
    return sum(
        template.layout.dp * template.layout.micro_batch * count
        for template, count in zip(templates, counts, strict=True)
    )


def _needed(layout: Layout, batch: int) -> int:
    count = -(-batch // (layout.dp * layout.micro_batch))
    return -(-count // layout.pp) * layout.pp if layout.virtual > 1 else count


def _with_micro_batches(job: Job, template: Template, count: int) -> Template:
    if count == template.layout.micro_batches:
        return template
    layout = replace(template.layout, micro_batches=count)
    return evaluate(job, template.segments, layout) or template
