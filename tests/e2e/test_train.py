"""`isthmus train` from its start to its end, without trouble."""

import pytest
import torch
from safetensors.torch import load_file

from isthmus.journal import events as e

pytestmark = pytest.mark.timeout(240)


def test_two_sites_to_the_end_and_a_text_from_it(long):
    process = long.train()
    long.wait_for("VersionPublished")
    summary = long.end(process)
    assert "budget" in summary
    long.check_whole()
    assert {event.site for event in long.events("StepDone")} == {"a", "b"}
    assert [event.reason for event in long.events("SiteLeft")] == ["left", "left"]
    assert not long.events("Fault")
    assert len(long.events("RunStarted")) == 1
    assert {event.server for event in long.events("LinkSample")} != {""}
    published = {event.version for event in long.events("VersionPublished")}
    assert published == set(range(1, max(published) + 1))
    known: dict[int, str] = {}
    for event in long.events("VersionApplied"):
        assert known.setdefault(event.version, event.hash) == event.hash
    losses = [event.loss for event in long.events("StepDone")]
    assert sum(losses[-10:]) < 0.98 * sum(losses[:10])
    told = long.end(long.isthmus("generate", long.path, "abc", "--max-tokens", 5))
    assert told.startswith("abc")
    again = long.end(long.train(), code=2)
    assert "finished" in again


def test_strict_mode_gives_the_same_bits_again(run):
    run.run["outer"] |= {"mode": "strict", "delay": 2}
    run.run["train"] |= {"tokens": 10_240}
    weights = []
    for number in range(2):
        run.path = run.folder / f"run-{number}"
        run._reader, run._events = None, []
        run.end(run.train())
        run.check_whole()
        weights.append(load_file(run.path / "final" / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_two_ranks_at_one_site(long):
    long.fleet = {"sites": {"a": {"nodes": [{"chips": {"cpu": 2}}]}, "b": {}}}
    long.end(long.train())
    long.check_whole()
    assert {event.site for event in long.events("StepDone")} == {"a", "b"}
    assert (long.path / "logs" / "rank-a-1.log").exists()


def test_an_emulated_link_and_a_clean_good_bye(long):
    link = {"bandwidth": "100 Mbps", "delay": "60 ms", "shape": True}
    long.fleet = {"sites": {"a": {"link": link}, "b": {"link": link}}}
    long.end(long.train())
    long.check_whole()
    assert [event.reason for event in long.events("SiteLeft")] == ["left", "left"]
    assert all(isinstance(event, e.LinkSample) for event in long.events("LinkSample"))
    assert not long.events("Fault")
