"""Links for benchmarks: distant sites around one server, on one machine.

With root, the server and each site live in network namespaces of their own, joined by `tun`: real round
trips, real congestion control, a rate and a queue. Without, each site dials the server through a
`wire.shaper` relay."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from isthmus.wire.shaper import ShaperProcess
from isthmus_bench.tun import End, Wire

_SERVER_ADDRESS = "10.77.255.1"


class LinkShape(NamedTuple):
    rate_bps: float
    delay_s: float
    """One way; the round trip takes twice that."""


class Star(Protocol):
    """One server, a link to each site."""

    kind: str
    """For a benchmark's note: how the links are made."""
    server_host: str
    """What the server binds."""

    def server_prefix(self) -> list[str]:
        """Put before the server's command line."""
        ...

    def site_prefix(self, site: str) -> list[str]:
        """Put before the command line of every process of a site."""
        ...

    def dial(self, site: str, port: int) -> str:
        """host:port by which a site reaches the server that listens on `port`."""
        ...

    def cut(self, site: str, duration_s: float) -> None:
        """Lets nothing through on a site's link for so long."""
        ...

    def signal(self, number: signal.Signals) -> None:
        """To the processes that are the links."""
        ...


def can_use_namespaces() -> bool:
    """Root, `ip`, TUN devices, and leave to make a namespace (containers often lack it)."""
    if os.geteuid() != 0 or not shutil.which("ip") or not Path("/dev/net/tun").exists():
        return False
    name = f"isthmus-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made


@contextlib.contextmanager
def star(sites: Mapping[str, LinkShape]) -> Iterator[Star]:
    """The best links this machine allows, gone again when the block ends (as are processes in namespaces)."""
    with _namespaces(sites) if can_use_namespaces() else _relays(sites) as made:
        yield made


class _Namespaces:
    def __init__(self, sites: Mapping[str, LinkShape], mark: str):
        self.kind = "network namespaces, TUN links"
        self.server_host = _SERVER_ADDRESS
        self._server = f"isthmus-{mark}-server"
        self._sites = {site: f"isthmus-{mark}-{number}" for number, site in enumerate(sites)}
        self.wires = [
            Wire(
                site,
                (
                    End(self._server, f"wan{number}", f"10.77.{number}.1/24"),
                    End(self._sites[site], "wan", f"10.77.{number}.2/24"),
                ),
                shape.rate_bps,
                shape.delay_s,
            )
            for number, (site, shape) in enumerate(sites.items())
        ]
        self.shuttle: subprocess.Popen[str] | None = None

    @property
    def names(self) -> list[str]:
        return [self._server, *self._sites.values()]

    def server_prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self._server]

    def site_prefix(self, site: str) -> list[str]:
        return ["ip", "netns", "exec", self._sites[site]]

    def dial(self, site: str, port: int) -> str:
        return f"{_SERVER_ADDRESS}:{port}"

    def cut(self, site: str, duration_s: float) -> None:
        assert self.shuttle is not None
        assert self.shuttle.stdin is not None
        self.shuttle.stdin.write(f"cut {site} {duration_s}\n")
        self.shuttle.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        if self.shuttle is not None:
            self.shuttle.send_signal(number)

    def start(self) -> None:
        for name in self.names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", self._server, "addr", "add", f"{_SERVER_ADDRESS}/32", "dev", "lo")
        self.shuttle = subprocess.Popen(
            [sys.executable, "-m", "isthmus_bench.tun", json.dumps(msgspec.to_builtins(self.wires))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.shuttle.stdout is not None
        with self.shuttle.stdout as answers:
            if answers.readline() != "ready\n":
                raise RuntimeError("the links could not be made")
        for name in self._sites.values():
            _ip("-n", name, "route", "add", "default", "dev", "wan")

    def stop(self) -> None:
        if self.shuttle is not None and self.shuttle.stdin is not None:
            self.shuttle.stdin.close()
            try:
                self.shuttle.wait(5.0)
            except subprocess.TimeoutExpired:
                self.shuttle.kill()
                self.shuttle.wait(5.0)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextlib.contextmanager
def _namespaces(sites: Mapping[str, LinkShape]) -> Iterator[_Namespaces]:
    made = _Namespaces(sites, secrets.token_hex(3))
    try:
        made.start()
        yield made
    finally:
        made.stop()


class _Relays:
    def __init__(self, sites: Mapping[str, LinkShape], stack: contextlib.ExitStack):
        self.kind = "user-space relays"
        self.server_host = "127.0.0.1"
        self._shapes = dict(sites)
        self._stack = stack
        self._relays: dict[tuple[str, int], ShaperProcess] = {}

    def server_prefix(self) -> list[str]:
        return []

    def site_prefix(self, site: str) -> list[str]:
        return []

    def dial(self, site: str, port: int) -> str:
        if (site, port) not in self._relays:
            shape = self._shapes[site]
            relay = ShaperProcess((self.server_host, port), shape.rate_bps, shape.delay_s)
            self._relays[site, port] = self._stack.enter_context(relay)
        host, relayed = self._relays[site, port].address
        return f"{host}:{relayed}"

    def cut(self, site: str, duration_s: float) -> None:
        for (name, _), relay in self._relays.items():
            if name == site:
                relay.blackhole(duration_s)

    def signal(self, number: signal.Signals) -> None:
        for relay in self._relays.values():
            relay.process.send_signal(number)


@contextlib.contextmanager
def _relays(sites: Mapping[str, LinkShape]) -> Iterator[_Relays]:
    with contextlib.ExitStack() as stack:
        yield _Relays(sites, stack)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
