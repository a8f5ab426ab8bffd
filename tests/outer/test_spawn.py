import datetime

import pytest

from isthmus.errors import InputError
from isthmus.outer import spawn
from isthmus.outer.site import Site
from isthmus.outer.spawn import ClientProcess
from isthmus.wire import certs


@pytest.fixture
def folder(tmp_path):
    certs.init(tmp_path, ["jinan"], ["127.0.0.1"], datetime.datetime.now(datetime.UTC))
    return tmp_path / "jinan"


@pytest.fixture
def started(monkeypatch):
    commands = []
    monkeypatch.setattr(spawn, "_spawn", lambda argv, folder: commands.append(argv))
    return commands


@pytest.mark.parametrize("servers", [["one:1"], ["one:1", "two:2"]])
def test_a_client_dials_the_server_and_its_standby(folder, started, servers):
    client = ClientProcess.start("jinan", servers, folder)
    words = started[0]
    assert [words[i + 1] for i, word in enumerate(words) if word == "--server"] == servers
    client.folder.rmdir()


@pytest.mark.parametrize("server", ["", [], ["one:1", ""]])
def test_a_site_without_a_server_is_told(folder, started, server):
    with pytest.raises(InputError, match="host:port"):
        Site(None, name="jinan", server=server, certs=folder)
    assert not started
