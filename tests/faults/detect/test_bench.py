"""The benchmark of the detectors works."""

from isthmus_bench.faults.detect import run


def test_the_benchmark_gives_its_rows():
    rows = {result.id: result.value for result in run(quick=True)}
    assert rows["faults.detect.slow_p95.noise3"] <= 40
    assert rows["faults.detect.slow_false.noise10"] <= 1
    assert rows["faults.detect.page_ns"] > 0
