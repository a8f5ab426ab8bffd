"""Alerts as JSON POSTs, from a thread of their own, so that a slow or dead receiver holds up nobody."""

import contextlib
import http.client
import queue
import threading
import urllib.parse
import urllib.request
from types import TracebackType
from typing import Self

import msgspec

from isthmus.errors import InputError
from isthmus.journal.alerts import Alert, add_alert, alert_of
from isthmus.journal.events import AnyEvent

QUEUED_ALERTS = 100
TIMEOUT_S = 5.0
PAUSES_S = (1.0, 4.0)
"""Between the attempts to deliver one alert; after the last one it is given up."""
CLOSE_S = 6.0
SENT = ("level", "kind", "subject", "text", "wall_s")
OF_FAULTS = {"class": "fault_class", "entry": "entry", "action": "action"}
"""Sent too where the alert has them: of diagnoses and heals."""


class Alerts:
    """Sends alerts to `url`. A context manager; any thread may send.

    The body is an object with run, level ('critical', 'warning', 'info'), kind, subject, text and wall_s; of
    a diagnosis also class, entry and action, of a heal the action.

    Raises:
        InputError: `url` is no http or https address.
    """

    def __init__(self, url: str, run: str = ""):
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise InputError(
                f"'{url}' is not a web address",
                where="alerts.webhook",
                hint="it begins with https:// or http://",
            )
        self._url = url
        self._run = run
        self._queue: queue.Queue[Alert | None] = queue.Queue(QUEUED_ALERTS)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._sent: tuple[Alert, ...] = ()
        self.delivered = 0
        self.lost = 0
        """Alerts given up: the receiver failed every time, or too many were waiting."""
        self._thread = threading.Thread(target=self._deliver_all, name="alerts", daemon=True)
        self._thread.start()

    def send(self, event: AnyEvent) -> None:
        """Queue the alert that this event is. An event that is none, or repeats one, is passed over."""
        alert = alert_of(event)
        if alert is None or self._is_repeated(alert):
            return
        try:
            self._queue.put_nowait(alert)
        except queue.Full:
            self.lost += 1

    def _is_repeated(self, alert: Alert) -> bool:
        with self._lock:
            self._sent = add_alert(self._sent, alert)[-QUEUED_ALERTS:]
            return self._sent[-1].times > 1

    def close(self) -> None:
        """Deliver what is queued, without further retries and for no longer than `CLOSE_S`."""
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ):
        self.close()

    def _deliver_all(self) -> None:
        while True:
            alert = self._queue.get()
            if alert is None:
                return
            if self._deliver(alert):
                self.delivered += 1
            else:
                self.lost += 1
            if self._closing.is_set() and self._queue.empty():
                return

    def _deliver(self, alert: Alert) -> bool:
        sent = {name: getattr(alert, name) for name in SENT}
        sent |= {name: told for name, field in OF_FAULTS.items() if (told := getattr(alert, field))}
        body = msgspec.json.encode({"run": self._run, **sent})
        for pause_s in (*PAUSES_S, 0.0):
            if self._post(body):
                return True
            if self._closing.wait(pause_s):
                return False
        return False

    def _post(self, body: bytes) -> bool:
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return 200 <= answer.status < 300
        except (OSError, http.client.HTTPException):
            return False
