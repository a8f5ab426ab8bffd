import os
import signal
import subprocess
import sys

import pytest

from isthmus.train.signals import GRACE_S, SIGNALS, Leave


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_starts_the_deadline(number):
    before = signal.getsignal(number)
    with Leave() as leave:
        assert not leave.asked
        assert leave.remaining_s == GRACE_S
        os.kill(os.getpid(), number)
        assert leave.asked
        assert leave.reason == number.name
        assert 0 < leave.remaining_s < GRACE_S
    assert signal.getsignal(number) == before


def test_asking_twice_keeps_the_first_reason_and_deadline():
    leave = Leave()
    leave.ask("another rank")
    left = leave.remaining_s
    leave.ask("again")
    assert leave.reason == "another rank"
    assert leave.remaining_s <= left


TWICE = """
import os, signal
from isthmus.train.signals import Leave
with Leave() as leave:
    os.kill(os.getpid(), signal.SIGINT)
    print("first", leave.asked, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("never")
"""


def test_the_second_signal_ends_the_process_at_once():
    ended = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stdout == "first True\n"
