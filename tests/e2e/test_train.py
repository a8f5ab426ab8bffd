"""`isthmus train` from its start to its end, without trouble."""

import pytest
import torch
from safetensors.torch import load_file

from isthmus.journal import events as e

pytestmark = pytest.mark.timeout(240)


def test_two_sites_to_the_end_and_a_text_from_it(run):
    process = run.train()
    run.wait_for("VersionPublished")
    summary = run.end(process)
    assert "budget" in summary
    run.check_whole()
    assert {event.site for event in run.events("StepDone")} == {"a", "b"}
    assert [event.reason for event in run.events("SiteLeft")] == ["left", "left"]
    assert not run.events("Fault")
    assert len(run.events("RunStarted")) == 1
    assert {event.server for event in run.events("LinkSample")} != {""}
    published = {event.version for event in run.events("VersionPublished")}
    assert published == set(range(1, max(published) + 1))
    known: dict[int, str] = {}
    for event in run.events("VersionApplied"):
        assert known.setdefault(event.version, event.hash) == event.hash
    losses = [event.loss for event in run.events("StepDone")]
    assert sum(losses[-10:]) < 0.98 * sum(losses[:10])
    told = run.end(run.isthmus("generate", run.path, "abc", "--max-tokens", 5))
    assert told.startswith("abc")
    again = run.end(run.train(), code=2)
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


def test_two_ranks_at_one_site(run):
    run.fleet = {"sites": {"a": {"nodes": [{"chips": {"cpu": 2}}]}, "b": {}}}
    run.end(run.train())
    run.check_whole()
    assert {event.site for event in run.events("StepDone")} == {"a", "b"}
    assert (run.path / "logs" / "rank-a-1.log").exists()


def test_an_emulated_link_and_a_clean_good_bye(run):
    link = {"bandwidth": "100 Mbps", "delay": "60 ms", "shape": True}
    run.fleet = {"sites": {"a": {"link": link}, "b": {"link": link}}}
    run.end(run.train())
    run.check_whole()
    assert [event.reason for event in run.events("SiteLeft")] == ["left", "left"]
    assert all(isinstance(event, e.LinkSample) for event in run.events("LinkSample"))
    assert not run.events("Fault")
