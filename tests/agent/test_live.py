"""The folder of a site's keeper."""

import subprocess
import sys

import pytest

from isthmus.agent import live
from isthmus.agent.live import sole
from isthmus.errors import StorageError

HOLD = """
import sys, time
from pathlib import Path
from isthmus.agent.live import sole
with sole(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_site_has_one_keeper_at_a_time(tmp_path, monkeypatch):
    folder = tmp_path / "sites" / "here"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        monkeypatch.setattr(live, "LEAVE_S", 0.2)
        with pytest.raises(StorageError) as caught, sole(folder):
            pass
        assert "stop the other one" in (caught.value.hint or "")
        other.kill()
    monkeypatch.setattr(live, "LEAVE_S", 10.0)
    with sole(folder):
        assert (folder / ".lock").exists()
