"""`isthmus metrics`."""

import sys
from pathlib import Path

from isthmus.journal.sinks.prometheus import HOST, MetricsServer


def metrics(run: Path, *, port: int = 9100) -> None:
    """Serve a run's figures to Prometheus, at http://127.0.0.1:PORT/metrics, until interrupted.

    Nobody but this machine can reach them.

    Parameters
    ----------
    run
        The run's folder.
    port
        0 takes a free one, which is printed.
    """
    server = MetricsServer(run, port)
    print(f"serving http://{HOST}:{server.port}/metrics", file=sys.stderr)
    server.serve()
