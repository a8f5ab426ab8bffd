"""The parameter server's process: `python -m isthmus.outer.server --run-dir RUN`. NumPy only.

It opens the run folder's ledger, listens, and runs the executor (`server_executor`) until the run is over.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from isthmus import __version__
from isthmus.errors import IsthmusError, NotFoundError, SupersededError
from isthmus.journal import events as journal
from isthmus.journal.store import DiskStore
from isthmus.journal.writer import Journal
from isthmus.outer.dialect import dialect
from isthmus.outer.ledger import Ledger
from isthmus.outer.merge import warm_up
from isthmus.outer.protocol import ServerConfig
from isthmus.outer.server_executor import Server
from isthmus.outer.settings import read_plan, server_config
from isthmus.rundir import RunDir
from isthmus.spec.load import load_fleet, load_run
from isthmus.wire.probe import run_facts
from isthmus.wire.transport import Listener, ServerTls, format_address, parse_address

BY_HAND_EPOCHS = 1000
"""A server put in charge by hand leaves out as many epochs: more than the lost one can have used since."""


def serve(
    run: RunDir, bind: str, *, certs: Path | None = None, log: Journal | None = None, by_hand: bool = False
) -> str:
    """Runs the server of this run folder until the run is over; returns why it ended.

    The address is written to `run.server_address`.

    Args:
        certs: the fleet's certificates; by default the run's.
        log: where to tell of it; by default the run's journal. Closed at the end.
        by_hand: a person says that the server which had the run is gone, and this one takes over.

    Raises:
        SupersededError: another server has taken over meanwhile.
        NotFoundError: `by_hand`, and there is nothing to go on from.
    """
    spec = load_run(run.run_yaml)
    plan = read_plan(run.plan.read_bytes())
    warm_up()
    with log or Journal(run.path, "server") as log:
        ledger = Ledger(run.server, spec.outer, log)
        if by_hand:
            take_over(run, ledger, ledger.book.epoch + BY_HAND_EPOCHS)
        server = Server(
            replace(server_config(plan, spec.outer), name=server_name(run)),
            ledger,
            log,
            spec.data.seq_len,
            {path.name: path.read_bytes() for path in (run.run_yaml, run.fleet_yaml, run.plan)},
            epoch=int(run.promoted.read_text()) if run.promoted.exists() else 0,
        )
        tls = ServerTls.load(certs or run.certs)
        listener = Listener(parse_address(bind), tls, server, speaks=dialect())
        listener.facts = run_facts(spec)
        signal.signal(signal.SIGTERM, lambda *_: server.stop("checkpoint"))
        address = format_address(listener.address)
        DiskStore().write_atomic(run.server_address, f"{address}\n".encode())
        log.emit(
            journal.ServerStarted(
                server_epoch=max(ledger.book.epoch + 1, server.epoch),
                version=ledger.book.version,
                replayed=ledger.replayed,
                address=address,
            )
        )
        reason = server.run()
        listener.close()
        ledger.close()
    if server.superseded_by:
        run.promoted.unlink(missing_ok=True)
        raise SupersededError(
            f"{reason}: this server was away, and another one has taken its place",
            where=str(run.path),
            hint="the run goes on there. `isthmus server standby` with this folder makes it the new standby",
        )
    return reason


def take_over(run: RunDir, ledger: Ledger, epoch: int) -> None:
    """At its next start this folder's server is that of `epoch`. Raises NotFoundError if it is empty."""
    if not ledger.seeded:
        raise NotFoundError(
            "there is nothing to go on from",
            where=str(run.server),
            hint="name the run folder of a standby, or a copy of the lost server's",
        )
    DiskStore().write_atomic(run.promoted, str(epoch).encode())


def server_name(run: RunDir) -> str:
    """As a candidate for an epoch."""
    return run.standby_name.read_text().strip() if run.standby_name.exists() else ServerConfig().name


def last_address(run: RunDir) -> str:
    """Where the server listened the time before, as the sites know it; '' if it never did."""
    known = [path for path in (run.server_address, run.last_address) if path.exists()]
    return known[0].read_text().strip() if known else ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="parameter server of one run")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--bind", default="")
    options = parser.parse_args(argv)
    run = RunDir.existing(options.run_dir)
    try:
        bind = last_address(run) or options.bind or load_fleet(run.fleet_yaml).server.bind
        reason = serve(run, bind)
    except IsthmusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"isthmus server {__version__} ended: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
