"""What the benchmarks of faults compute from a kept site's journal."""

import pytest

from isthmus_bench.faults.crew import percentile


def test_percentiles_are_measured_values() -> None:
    values = [float(n) for n in range(20, 0, -1)]
    assert percentile(values, 0.95) == 19
    assert percentile(values, 0.5) == 10
    assert percentile(values, 1.0) == 20
    assert percentile([3.0], 0.95) == 3.0
    with pytest.raises(IndexError):
        percentile([], 0.5)
