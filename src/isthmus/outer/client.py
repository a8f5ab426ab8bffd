"""A site's client: `python -m isthmus.outer.client --site NAME --server HOST:PORT ...`. NumPy only.

It stands between the ranks (shared vectors, a Unix socket: `bridge`) and the parameter server (`wire`), off
the ranks' interpreter lock and alive when one of them dies. The main thread runs the executor of the member
machine (`client_executor`); the transport's threads and the ranks' feed its queue.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isthmus.errors import InputError, IsthmusError
from isthmus.journal.writer import Journal
from isthmus.outer import bridge, messages
from isthmus.outer.client_events import Blob, Sent
from isthmus.outer.client_executor import Client
from isthmus.outer.dialect import dialect
from isthmus.outer.member import state as machine
from isthmus.rundir import RunDir
from isthmus.wire.tls import ClientTls
from isthmus.wire.transport import Peer, Session


class Handler:
    """The transport's callbacks for one server: they only fill buffers and feed the queue."""

    def __init__(self, client: Client, server: str):
        self._client, self._server = client, server

    def on_up(self, peer: Peer) -> None:
        self._client.peers[self._server] = peer
        self._client.put(machine.LinkUp(self._server))

    def on_down(self, peer: Peer, reason: str) -> None:
        self._client.put(machine.LinkDown(self._server))
        self._client.note_link(self._server, reason)

    def on_message(self, peer: Peer, message: bytes) -> None:
        try:
            said = messages.decode(message, where=self._server)
        except InputError as error:
            self._client.put(error)
            return
        self._client.put(machine.Received(self._server, said))

    def allocate(self, peer: Peer, key: str, size: int) -> np.ndarray | None:
        return np.empty(size, np.uint8) if key.startswith(("delta/", "full/")) else None

    def on_blob(self, peer: Peer, key: str, buffer: np.ndarray) -> None:
        self._client.put(Blob(key, buffer))

    def on_sent(self, peer: Peer, key: str) -> None:
        self._client.put(Sent(key))


def listen(path: Path, client: Client) -> socket.socket:
    """Takes one rank 0 after another on this Unix socket, in a thread."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    door.bind(str(path))
    os.chmod(path, 0o600)
    door.listen(1)

    def take_in() -> None:
        while True:
            try:
                connection, _ = door.accept()
            except OSError:
                return
            client.attend(bridge.Line(connection))

    threading.Thread(target=take_in, name="ranks", daemon=True).start()
    return door


def leave_no_line(path: Path) -> None:
    """Its folder goes with the last line in it."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="one site's client of the parameter server")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--site", required=True)
    parser.add_argument("--server", required=True, action="append", help="host:port; again for a standby")
    parser.add_argument("--certs", type=Path, required=True)
    parser.add_argument("--line", type=Path, required=True, help="Unix socket for rank 0")
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--congestion", default="bbr")
    options = parser.parse_args(argv)
    run = RunDir(options.run_dir)
    try:
        with Journal(run.path, f"site/{options.site}") as log:
            client = Client(options.site, run.site(options.site), log)
            door = listen(options.line, client)
            tls = ClientTls.load(options.certs, options.site)
            sessions = [
                Session(
                    [server],
                    tls,
                    Handler(client, server),
                    dialect(),
                    streams=options.streams,
                    congestion=options.congestion,
                )
                for server in options.server
            ]
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: client.stop("checkpoint"))
            try:
                reason = client.run(sessions)
            finally:
                for session in sessions:
                    session.close()
                door.close()
                client.close()
                leave_no_line(options.line)
    except IsthmusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"isthmus client of {options.site} ended: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
