"""The parts of the benchmark that must be right for its verdict to mean anything."""

import random

import numpy as np

from isthmus_bench import loader
from isthmus_bench.document import Result, document


def test_shares_cover_the_range_once():
    for seed in range(30):
        shares = loader._shares(17, 300, random.Random(seed))
        leases = {id(share.ranges): share.ranges for share in shares}
        covered = np.sort(np.concatenate([np.arange(a, b) for ranges in leases.values() for a, b in ranges]))
        assert np.array_equal(covered, np.arange(17, 300))
        for ranges in leases.values():
            group = [share for share in shares if share.ranges is ranges]
            assert sorted(share.rank for share in group) == list(range(group[0].world))


def test_document_names_machine_and_results():
    found = document([Result("loader.identical", 1.0, "share", {"peer 1.0": 0.5}, "note")])
    assert set(found) == {"machine", "results"}
    assert found["machine"]["cores"] >= 1
    assert found["results"] == [
        {"id": "loader.identical", "value": 1.0, "unit": "share", "peers": {"peer 1.0": 0.5}, "note": "note"}
    ]
