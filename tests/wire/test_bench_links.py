"""The links and quotas that benchmarks use, with root and without."""

import subprocess
import sys
import time

import pytest

from isthmus_bench import netns, quota
from isthmus_bench.netns import LinkShape

SERVER = """
import socket
server = socket.create_server((__HOST__, 0))
print(server.getsockname()[1], flush=True)
for _ in range(2):
    sock, _ = server.accept()
    while data := sock.recv(1 << 16):
        sock.sendall(data)
"""
SITE = """
import socket, sys, time
host, port = sys.argv[1].rsplit(":", 1)
start_s = time.monotonic()
with socket.create_connection((host, int(port))) as sock:
    for _ in range(3):
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
print(time.monotonic() - start_s)
"""
needs_root = pytest.mark.skipif(not netns.can_use_namespaces(), reason="needs root and network namespaces")
SITES = {"a": LinkShape(100e6, 0.01), "b": LinkShape(50e6, 0.02)}


@pytest.mark.parametrize("kind", [pytest.param("namespaces", marks=[needs_root, pytest.mark.root]), "relays"])
def test_each_site_has_its_own_delay(kind, monkeypatch):
    monkeypatch.setattr(netns, "can_use_namespaces", lambda: kind == "namespaces")
    with netns.star(SITES) as star:
        code = SERVER.replace("__HOST__", repr(star.server_host))
        command = [*star.server_prefix(), sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            for site, shape in SITES.items():
                ask = [*star.site_prefix(site), sys.executable, "-c", SITE, star.dial(site, port)]
                took_s = float(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)
                assert took_s >= 3 * 2 * shape.delay_s
            star.cut("a", 0.1)
            assert server.wait(10.0) == 0


@pytest.mark.skipif(not quota.can_use_quotas(), reason="needs root and a cpu control group")
@pytest.mark.root
def test_a_quota_limits_and_goes_away():
    spin = "import time\nend = time.process_time() + 0.06\nwhile time.process_time() < end: pass"
    with quota.quota(0.2) as group:
        start_s = time.monotonic()
        subprocess.run([*group.prefix(), sys.executable, "-c", spin], check=True)
        assert time.monotonic() - start_s >= 0.2
        assert group.throttled_share() > 0
        folder = group.folder
    assert not folder.exists()
