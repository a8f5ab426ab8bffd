"""A client process for a training loop that was not started by `isthmus train`."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from isthmus.errors import InputError

_STOP_S = 30.0


@dataclass
class ClientProcess:
    """Owns `python -m isthmus.outer.client` and a folder for its socket and log."""

    folder: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, site: str, server: str, certs: Path) -> "ClientProcess":
        """Raises InputError if one of the three is missing."""
        if not (site and server and certs.is_dir()):
            raise InputError(
                "a site needs its name, the server's host:port and its certificates",
                where=f"outer.Site(name={site!r}, server={server!r}, certs={str(certs)!r})",
                hint="`isthmus server start` prints all three",
            )
        folder = Path(tempfile.mkdtemp(prefix="isthmus-"))
        places = ["--run-dir", str(folder), "--line", str(folder / "client.sock"), "--certs", str(certs)]
        with open(folder / "client.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "isthmus.outer.client", "--site", site, "--server", server, *places],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(folder, process)

    @property
    def line(self) -> Path:
        return self.folder / "client.sock"

    def stop(self) -> None:
        """It leaves by itself once the site has left; after `_STOP_S` it is ended."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
