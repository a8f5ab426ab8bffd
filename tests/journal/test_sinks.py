"""Prometheus, TensorBoard and the webhook, each against the real other side where there is one."""

import json
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from isthmus.errors import InputError
from isthmus.journal import events as e
from isthmus.journal.figures import figures
from isthmus.journal.fold import fold
from isthmus.journal.sinks import tensorboard, webhook
from isthmus.journal.sinks.prometheus import MetricsServer, exposition
from isthmus.journal.sinks.webhook import Alerts
from isthmus.journal.writer import Journal

FAULT = e.Fault(wall_s=5.0, subject="rank-a-0", kind="rank_died", detail="exit code -9")


HEALED = e.Healed(
    wall_s=13.6, source="agent/a", site="a", subjects=["rank-a-0"], kind="restart_rank", generation=2, step=2,
    lost_steps=1, began_s=13.0, detected_s=13.1, diagnosed_s=13.2, regrouped_s=13.4, resumed_s=13.5,
)  # fmt: skip


def step(number: int, loss: float = 2.0) -> e.StepDone:
    return e.StepDone(
        wall_s=10.0 + number, site="a", step=number, tokens=100, loss=loss, lr=1e-3, grad_norm=1.0,
        step_s=0.5, wait_s=0.1, version=1,
    )  # fmt: skip


class Receiver(HTTPServer):
    """Answers the first posts with the given codes, all others with 200."""

    def __init__(self, codes: list[int]) -> None:
        self.codes, self.bodies = codes, []
        self.received = threading.Event()
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook"


class Answer(BaseHTTPRequestHandler):
    server: Receiver  # pyright: ignore

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        code = self.server.codes.pop(0) if self.server.codes else 200
        if code == 200:
            self.server.bodies.append(json.loads(body))
            self.server.received.set()
        self.send_response(code)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver([])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "PAUSES_S", (0.01, 0.01))


def test_alerts_are_posted_and_everyday_events_are_not(receiver: Receiver):
    with Alerts(receiver.url, run="r") as alerts:
        alerts.send(step(1))
        alerts.send(FAULT)
    assert receiver.bodies == [
        {
            "run": "r",
            "wall_s": 5.0,
            "level": "warning",
            "kind": "rank_died",
            "subject": "rank-a-0",
            "text": "exit code -9",
        }
    ]
    assert (alerts.delivered, alerts.lost) == (1, 0)


def test_a_diagnosis_is_posted_with_class_entry_and_action(receiver: Receiver):
    found = e.Diagnosed(
        wall_s=5.0, source="agent/a", subject="rank-a-3", fault_class="ecc", entry="XID-48",
        action="replace_node", confidence=0.97, cause="double bit error", verify="dcgmi diag -r 3 passes",
        evidence=["Xid 48"],
    )  # fmt: skip
    with Alerts(receiver.url, run="r") as alerts:
        for event in (found, found, HEALED):
            alerts.send(event)
    diagnosis, heal = receiver.bodies
    assert diagnosis["subject"] == "rank-a-3"
    assert (diagnosis["class"], diagnosis["entry"], diagnosis["action"]) == ("ecc", "XID-48", "replace_node")
    assert (heal["level"], heal["action"]) == ("info", "restart_rank")


def test_what_repeats_itself_is_posted_once(receiver: Receiver):
    with Alerts(receiver.url) as alerts:
        for at_s in (5.0, 30.0, 80.0, 300.0):
            alerts.send(e.Fault(wall_s=at_s, subject="link/a", kind="link_down", detail=""))
        deadline_s = time.monotonic() + 30
        while alerts.delivered < 2 and time.monotonic() < deadline_s:
            time.sleep(0.01)
    assert [body["wall_s"] for body in receiver.bodies] == [5.0, 300.0]


def test_a_refused_alert_is_tried_again(receiver: Receiver):
    receiver.codes += [503, 500]
    with Alerts(receiver.url) as alerts:
        alerts.send(FAULT)
        assert receiver.received.wait(5)
    assert alerts.delivered == 1


def test_a_dead_receiver_costs_nothing_but_the_alerts():
    closed = HTTPServer(("127.0.0.1", 0), Answer)
    closed.server_close()
    with Alerts(f"http://127.0.0.1:{closed.server_address[1]}/") as alerts:
        for i in range(webhook.QUEUED_ALERTS + 50):
            alerts.send(e.Fault(wall_s=5.0, subject=f"rank-a-{i}", kind="rank_died", detail=""))
    assert alerts.delivered == 0
    assert alerts.lost >= 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "hooks.example.org/x", ""])
def test_only_web_addresses(url: str):
    with pytest.raises(InputError):
        Alerts(url)


def test_metrics_are_served_as_they_are_at_that_moment(tmp_path: Path):
    with Journal(tmp_path, "rank/a/0") as journal:
        journal.emit(step(1))
    server = MetricsServer(tmp_path, 0)
    thread = threading.Thread(target=server.serve)
    thread.start()
    address = f"http://127.0.0.1:{server.port}"
    try:
        first = urllib.request.urlopen(f"{address}/metrics", timeout=5).read().decode()
        with Journal(tmp_path, "rank/a/0") as journal:
            journal.emit(step(2))
        second = urllib.request.urlopen(f"{address}/metrics", timeout=5).read().decode()
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{address}/secret", timeout=5)
        caught.value.close()
        with pytest.raises(InputError):
            MetricsServer(tmp_path, server.port)
    finally:
        server.close()
        thread.join()
    assert 'isthmus_site_steps_total{run="",site="a"} 1\n' in first
    assert 'isthmus_site_steps_total{run="",site="a"} 2\n' in second
    assert caught.value.code == 404


def test_the_exposition_format():
    lines = exposition(figures(fold([step(1, math.nan)]))).splitlines()
    named = {line.split("{")[0] for line in lines if not line.startswith("#")}
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert named <= typed
    assert 'isthmus_site_loss{run="",site="a"} NaN' in lines
    assert all(line.endswith("_total") for line in typed if f"# TYPE {line} counter" in lines)


def test_incidents_are_exposed():
    evil = e.Diagnosed(
        wall_s=20.0, source="agent/a", subject="rank-a-1", fault_class='x"\n', entry="", action="wait",
        confidence=1.0, cause="", verify="", evidence=[],
    )  # fmt: skip
    lines = exposition(figures(fold([step(1), step(2), FAULT, HEALED, step(2), evil]))).splitlines()
    for said in (
        'isthmus_incidents_total{run="",class="undiagnosed"} 1',
        'isthmus_incidents_total{run="",class="x\\"\\n"} 1',
        'isthmus_site_incidents_total{run="",site="a",class="undiagnosed"} 1',
        'isthmus_incidents_open{run=""} 1',
        'isthmus_lost_steps_total{run=""} 1',
        'isthmus_site_repeated_steps_total{run="",site="a"} 1',
    ):
        assert said in lines
    shown = {line.split("{")[0]: float(line.split()[-1]) for line in lines if not line.startswith("#")}
    assert 0 < shown["isthmus_ettr_ratio"] == shown["isthmus_site_ettr_ratio"] < 1
    assert shown["isthmus_last_recovery_seconds"] > 0
    assert math.isnan(float(next(
        line for line in exposition(figures(fold([]))).splitlines() if line.startswith("isthmus_ettr_ratio")
    ).split()[-1]))  # fmt: skip


def test_curves_reach_tensorboard(tmp_path: Path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    with Journal(tmp_path, "rank/a/0") as journal:
        journal.emit(step(1, 3.0))
        journal.emit(step(2, 2.5))
        journal.emit(e.EvalDone(wall_s=13.0, site="a", step=2, version=1, loss=2.7, tokens=200))
        journal.emit(FAULT)
        journal.emit(HEALED)
    for _ in range(2):
        assert tensorboard.write(tmp_path, tmp_path / "tb") == 4
    (path,) = (tmp_path / "tb" / "a").iterdir()
    found = {}
    for event in loader.LegacyEventFileLoader(str(path)).Load():
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value, event.wall_time
    assert found["train/loss", 1] == (3.0, 11.0)
    assert found["train/loss", 2] == (2.5, 12.0)
    assert found["train/tokens_per_s", 2][0] == 200.0
    assert found["heal/resumed_after_s", 2][0] == pytest.approx(0.5)
    assert found["heal/lost_steps", 2][0] == 1.0
    assert found["eval/loss", 2][0] == pytest.approx(2.7)
