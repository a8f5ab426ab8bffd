"""One server, and sites that are started by themselves: by `isthmus train`, under torchrun, in a loop of
one's own."""

import datetime
import json
import signal
import sys
from pathlib import Path

import pytest

from isthmus.wire import certs

pytestmark = pytest.mark.timeout(240)

LOOP = """
import pathlib, sys, time, torch
from isthmus import outer

name, server, certs, way = sys.argv[1:]
torch.manual_seed(0)
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
target = torch.roll(torch.eye(8), 1, 0)


def step(count):
    x = torch.randn(count, 8)
    loss = ((model(x) - x @ target) ** 2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


job, loss = outer.SiteJob(batch_size=8), None
with outer.Site(model, optimizer, name=name, server=server, certs=certs, job=job) as site:
    pathlib.Path(f"{name}.joined").touch()
    while len(list(pathlib.Path().glob("*.joined"))) < 2:
        site.poll()
        time.sleep(0.01)
    if way == "leases":
        while not site.stopping:
            samples = site.take(8)
            if samples:
                count = sum(end - start for start, end in samples)
                loss = step(count)
                site.step(tokens=32 * count, samples=samples)
            else:
                site.poll()
    else:
        enough = site.version + 6
        while site.version < enough:
            loss = step(8)
            site.step(tokens=8)
print("version", site.version, "loss", loss)
"""


DIFFERENT = [("model.ffn_size", 64), ("data.held_out", 0.2)]


class Served:
    def __init__(self, run):
        self.run, self.path = run, run.path
        self.script = run.folder / "loop.py"
        self.script.write_text(LOOP)
        self.process = self.again()
        address = run.path / "server" / "address"
        run.wait(address.exists, "the server's address")
        self.address, self.certs = address.read_text().strip(), run.path / "certs"

    def again(self):
        run = self.run
        arguments = ["--run", run.folder / "run.yaml", "--fleet", run.folder / "fleet.yaml"]
        return run.isthmus("server", "start", run.path, *arguments, "--bind", "127.0.0.1:0")

    def site(self, name: str, *more: object, command=(), certificates: Path | None = None, **kwargs):
        run = self.run
        specs = [run.folder / "run.yaml", "--fleet", run.folder / "fleet.yaml"]
        return run.command(
            *(command or [Path(sys.executable).with_name("isthmus")]),
            "train", *specs, "--run-dir", run.folder / f"site-{name}-{len(run.started)}", "--site", name,
            "--server", self.address, "--certs", certificates or self.certs / name, *more,
            **kwargs,
        )  # fmt: skip

    def loop(self, name: str, way: str):
        return self.run.command(sys.executable, self.script, name, self.address, self.certs / name, way)

    def stop(self) -> str:
        self.process.send_signal(signal.SIGINT)
        return self.run.end(self.process, code=None)


@pytest.fixture
def short(run):
    run.run["train"] |= {"tokens": 20_480}
    return run


def check_served(run) -> None:
    merged = run.merged()
    assert merged == list(range(run.num_samples))
    assert [event.reason for event in run.events("RunFinished")] == ["budget"]
    assert {event.reason for event in run.events("SiteLeft")} == {"left"}
    run.check_tidy()


def test_sites_that_are_started_one_by_one(short):
    short.run["train"] |= {"tokens": 61_440}  # a site alone needs longer than the other to start
    served = Served(short)
    sites = [served.site(name) for name in "ab"]
    for site in sites:
        short.end(site)
    told = short.end(served.process)
    assert "Traceback" not in told
    check_served(short)
    assert "has finished" in short.end(served.again(), code=2)
    answer = json.loads(short.end(short.isthmus("generate", short.path, "def ", "--max-tokens", 4, "--json")))
    assert answer["trained_tokens"] == 61_440
    assert Path(answer["weights"]).parent == short.path / "final"


def test_a_site_under_torchrun(short):
    short.fleet = {"sites": {"a": {"nodes": [{"chips": {"cpu": 2}}]}}}
    served = Served(short)
    torchrun = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", 2, "--no-python"]
    site = served.site("a", command=[*torchrun, Path(sys.executable).with_name("isthmus")])
    short.end(site)
    short.end(served.process)
    check_served(short)


def test_a_loop_of_ones_own_with_leases(short):
    served = Served(short)
    sites = [served.loop(name, "leases") for name in "ab"]
    for site in sites:
        assert "version" in short.end(site)
    short.end(served.process)
    check_served(short)
    assert not (short.path / "final").exists()


def test_a_loop_of_ones_own_without_leases(short):
    short.run["outer"] |= {"inner_steps": 10, "optimizer": "sgd", "lr": 1.0}
    served = Served(short)
    sites = [served.loop(name, "plain") for name in "ab"]
    for site in sites:
        told = short.end(site)
        assert float(told.split("loss")[1]) < 1.0
    told = served.stop()
    assert "Traceback" not in told
    assert {event.reason for event in short.events("SiteLeft")} == {"left"}
    short.check_tidy()


def test_a_site_that_differs_is_told_why_and_the_other_trains_on(run):
    run.run["train"] |= {"tokens": 409_600}
    served = Served(run)
    site = served.site("a")
    run.wait_for("VersionPublished")
    for (key, value), words in zip(DIFFERENT, ["another model", "other data"], strict=True):
        told = run.end(served.site("b", "--set", f"{key}={value}"), code=2)
        assert words in told
        assert "hint" in told
        assert "Traceback" not in told
    site.send_signal(signal.SIGTERM)
    run.end(site, code=130)
    assert "Traceback" not in served.stop()
    assert {event.site for event in run.events("SiteJoined")} == {"a"}
    run.check_tidy()


@pytest.mark.parametrize("days", [0, 3], ids=["of another authority", "not valid yet"])
def test_a_certificate_that_does_not_fit_is_told(short, tmp_path, days):
    served = Served(short)
    made = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    certs.init(tmp_path / "others", ["a"], ["127.0.0.1"], made)
    told = short.end(served.site("a", certificates=tmp_path / "others" / "a"), code=None)
    assert "certificate" in told or "clock" in told
    assert "hint" in told
    assert "Traceback" not in told
    served.stop()
    short.check_tidy()


def test_certificates_that_are_not_there_are_told_at_once(short, tmp_path):
    served = Served(short)
    told = short.end(served.site("a", certificates=tmp_path / "nowhere"), code=2)
    assert "isthmus certs" in told
    told = short.end(served.site("a", certificates=served.certs / "b"), code=2)
    assert "belongs to 'b'" in told
    served.stop()
