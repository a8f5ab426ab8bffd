"""A client process for a training loop that was not started by `isthmus train`."""

import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isthmus import leash
from isthmus.errors import InputError
from isthmus.outer import bridge
from isthmus.wire.tls import ClientTls

_STOP_S = 30.0


@dataclass
class ClientProcess:
    """Owns `python -m isthmus.outer.client` and a folder for its socket and log."""

    folder: Path
    argv: list[str]
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, site: str, servers: Sequence[str], certs: Path) -> "ClientProcess":
        """Raises InputError if one of the three is missing, or the certificates are not this site's."""
        if not (site and servers and all(servers) and certs.is_dir()):
            raise InputError(
                "a site needs its name, the server's host:port and its certificates",
                where=f"outer.Site(name={site!r}, server={list(servers)!r}, certs={str(certs)!r})",
                hint="`isthmus server start` prints all three",
            )
        ClientTls.load(certs, site)
        folder = bridge.line_folder()
        places = ["--run-dir", str(folder), "--line", str(folder / "client.sock"), "--certs", str(certs)]
        dial = [word for server in servers for word in ("--server", server)]
        argv = leash.command("isthmus.outer.client", ["--site", site, *dial, *places])
        return cls(folder, argv, _spawn(argv, folder))

    def revive(self) -> None:
        """Starts it again if it has died."""
        if self.process.poll() is not None:
            self.process = _spawn(self.argv, self.folder)

    @property
    def line(self) -> Path:
        return self.folder / "client.sock"

    def stop(self) -> None:
        """It leaves by itself once the site has left, and may be past hearing a signal then; after `_STOP_S`
        it is ended. Where it failed, its log stays.
        """
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.returncode in (0, -signal.SIGTERM):
            shutil.rmtree(self.folder, ignore_errors=True)


def _spawn(argv: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, so that a Ctrl-C at the terminal reaches only the loop."""
    with open(folder / "client.log", "ab") as log:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
