"""A run's figures in Prometheus' text format, served over HTTP to whoever scrapes."""

import math
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from isthmus.clock import RealClock
from isthmus.errors import InputError
from isthmus.journal.figures import Figures, SiteFigures, figures
from isthmus.journal.fold import fold
from isthmus.journal.reader import Reader
from isthmus.journal.view import RunView

HOST = "127.0.0.1"
"""Nobody but this machine gets an answer."""
Samples = Sequence[tuple[str, float | None]]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_OF_RUN = (
    ("tokens_merged_total", "counter", "Tokens merged into a version", "merged_tokens"),
    ("token_budget", "gauge", "Tokens the run will train on", "token_budget"),
    ("tokens_per_second", "gauge", "Tokens per second of the whole run", "tokens_per_s"),
    ("equivalent_compute", "gauge", "Whole run over the sum of the sites' own speed", "equivalent_compute"),
    ("loss", "gauge", "Training loss, weighted over the sites", "loss"),
    ("held_out_loss", "gauge", "Loss on held-out text", "held_out_loss"),
    ("version", "gauge", "Last published version", "version"),
    ("full_quorum_merges_total", "counter", "Versions to which all sites contributed", "full_quorum_merges"),
    ("server_starts_total", "counter", "Lives of the parameter server", "server_lives"),
    ("checkpoints_total", "counter", "Checkpoints saved", "checkpoints"),
    ("failed_checkpoints_total", "counter", "Checkpoints that failed", "failed_checkpoints"),
    ("faults_total", "counter", "Faults seen", "faults"),
    ("ettr_ratio", "gauge", "Effective training time over wall time", "ettr"),
    ("goodput_ratio", "gauge", "Tokens per second over the undisturbed rate", "goodput"),
)
_OF_SITE = (
    ("site_steps_total", "counter", "Inner steps", "steps"),
    ("site_tokens_total", "counter", "Tokens trained", "tokens"),
    ("site_loss", "gauge", "Training loss of the last step", "loss"),
    ("site_tokens_per_second", "gauge", "Over the last steps", "recent_tokens_per_s"),
    ("site_waiting_ratio", "gauge", "Share of time spent waiting for the server", "waiting_share"),
    ("site_version", "gauge", "Version taken up", "version"),
    ("site_pushes_total", "counter", "Contributions sent", "pushes"),
    ("site_merged_pushes_total", "counter", "Contributions merged", "merged"),
    ("site_quarantined_total", "counter", "Contributions refused as outliers", "quarantined"),
    ("site_ettr_ratio", "gauge", "Effective training time over wall time", "ettr"),
    ("site_goodput_ratio", "gauge", "Tokens per second over the undisturbed rate", "goodput"),
    ("link_sent_bytes_total", "counter", "Bytes to the server", "bytes_up"),
    ("link_received_bytes_total", "counter", "Bytes from the server", "bytes_down"),
    ("link_round_trip_seconds", "gauge", "Round trip to the server", "rtt_s"),
    ("link_resent_chunks_total", "counter", "Chunks sent again", "resent_chunks"),
)
_RECOVERY = (
    ("incidents_open", "gauge", "Incidents that are not over", "open"),
    ("lost_steps_total", "counter", "Steps done a second time, as heals told", "lost_steps"),
    ("repeated_steps_total", "counter", "Steps done a second time, by their numbers", "repeated_steps"),
    (
        "last_recovery_seconds",
        "gauge",
        "Of the last incident, from its beginning to its end",
        "last_recovery_s",
    ),
    ("recovery_seconds", "gauge", "Mean over all incidents", "recovery_s"),
    ("detection_seconds", "gauge", "Mean from a fault's beginning until it was found", "detect_s"),
)
"""Told of the run, and of each site with 'site_' before the name."""
_OF_LAYER = (
    ("expert_load_max_ratio", "Load of the most chosen expert over an even share", "max_load"),
    ("expert_load_min_ratio", "Load of the least chosen expert over an even share", "min_load"),
    ("expert_drop_ratio", "Share of the choices above the capacity", "drop_rate"),
    ("expert_balance_coef", "Weight of the balance loss", "coef"),
    ("expert_entropy_ratio", "Entropy of the gate over that of an even gate", "entropy"),
    ("expert_similarity", "Mean cosine of the experts' weights", "similarity"),
)


def exposition(shown: Figures) -> str:
    """All metrics as text, each with its help and type."""
    return "\n".join(_lines(shown)) + "\n"


def _lines(shown: Figures) -> Iterator[str]:
    run = f'run="{_escaped(shown.name)}"'
    for name, kind, help_text, field in _OF_RUN:
        yield from _metric(name, kind, help_text, [(run, getattr(shown, field))])
    for name, kind, help_text, field in _OF_SITE:
        yield from _metric(name, kind, help_text, [(_labels(run, s), getattr(s, field)) for s in shown.sites])
    for name, kind, help_text, field in _RECOVERY:
        yield from _metric(name, kind, help_text, [(run, getattr(shown.recovery, field))])
        of_sites = [(_labels(run, site), getattr(site.recovery, field)) for site in shown.sites]
        yield from _metric(f"site_{name}", kind, help_text, of_sites)
    by_class = [(f'{run},class="{_escaped(of)}"', count) for of, count in shown.recovery.by_class.items()]
    yield from _metric("incidents_total", "counter", "Incidents, once diagnosed or over", by_class)
    by_class = [
        (f'{_labels(run, site)},class="{_escaped(of)}"', count)
        for site in shown.sites
        for of, count in site.recovery.by_class.items()
    ]
    yield from _metric("site_incidents_total", "counter", "Incidents, once diagnosed or over", by_class)
    states = [(f'{_labels(run, site)},state="{site.state}"', 1) for site in shown.sites]
    yield from _metric("site_state", "gauge", "1 for the state the site is in", states)
    layers = [(f'{_labels(run, site)},layer="{of.layer}"', of) for site in shown.sites for of in site.experts]
    if layers:
        for name, help_text, field in _OF_LAYER:
            yield from _metric(name, "gauge", help_text, [(at, getattr(of, field)) for at, of in layers])
        dead = [(at, len(of.dead)) for at, of in layers]
        yield from _metric("experts_dead", "gauge", "Experts that no token chooses any more", dead)
    lost = [(f'{run},reason="{_escaped(why)}"', count) for why, count in shown.discarded_tokens.items()]
    yield from _metric("tokens_discarded_total", "counter", "Tokens trained in vain, leased again", lost)


def _metric(name: str, kind: str, help_text: str, samples: Samples) -> Iterator[str]:
    yield f"# HELP isthmus_{name} {help_text}"
    yield f"# TYPE isthmus_{name} {kind}"
    for labels, value in samples:
        shown = "NaN" if value is None or math.isnan(value) else f"{value:.10g}"
        yield f"isthmus_{name}{{{labels}}} {shown}"


def _labels(run: str, site: SiteFigures) -> str:
    return f'{run},site="{_escaped(site.name)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class MetricsServer:
    """Answers GET /metrics from the journal as it is at that moment.

    Args:
        port: 0 takes a free one; `.port` says which.

    Raises:
        NotFoundError: the run has no journal.
        InputError: the port cannot be taken.
    """

    def __init__(self, run_dir: Path, port: int):
        self._reader = Reader(run_dir)
        self._view = RunView()
        self._lock = threading.Lock()
        try:
            self._http = ThreadingHTTPServer((HOST, port), self._handler())
        except (OSError, OverflowError) as error:
            raise InputError(
                f"cannot listen: {error}", where=f"{HOST}:{port}", hint="choose another --port"
            ) from error
        self._http.daemon_threads = True
        self.port: int = self._http.server_address[1]

    def serve(self) -> None:
        """Serve until `close`, or for ever."""
        self._http.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def text(self) -> str:
        with self._lock:
            self._view = fold(self._reader.poll(), self._view)
            return exposition(figures(self._view, RealClock().wall_s()))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        metrics = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                if self.path.split("?")[0] not in ("/metrics", "/"):
                    self.send_error(404)
                    return
                body = metrics.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are no news."""

        return Handler
