"""A process's line to its keeper, with the keeper's end in the test's hands."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.agent.live import listen
from isthmus.comm.collective import SoloCollective
from isthmus.comm.site_group import Limits, form_group
from isthmus.heal.lifeline import AbandonedError, Ears, KeeperLine, Lifeline
from isthmus.heal.messages import Abandon, Form, Hello, Posted

WAIT_S = 10.0
LIMITS = Limits(meet_s=1.0, collective_s=1.0)


class Ends:
    def __init__(self, folder: Path, stack: contextlib.ExitStack):
        self.told = threading.Event()
        door = stack.enter_context(listen(folder / "door.sock"))
        ears = Ears(abandon=self.told.set)
        self.rank = Lifeline(folder / "door.sock", lambda: Hello("n/1.1", 1), ears)
        stack.callback(self.rank.close)
        connection, _ = door.accept()
        self.keeper = KeeperLine(connection)
        stack.callback(self.keeper.close)


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    with contextlib.ExitStack() as stack:
        yield Ends(tmp_path, stack)


def alone(generation: int) -> Form:
    return Form(generation, 0, 1, fresh=(0,))


def test_who_is_alone_in_a_group_that_is_over_does_not_train_on_in_it(ends: Ends):
    ends.keeper.send(alone(1))
    form = ends.rank.next_form(0, WAIT_S)
    assert isinstance(form, Form)
    assert isinstance(form_group(form, ends.rank, "gloo", LIMITS), SoloCollective)
    ends.keeper.send(Abandon(1))
    assert ends.told.wait(WAIT_S)
    with pytest.raises(AbandonedError):
        form_group(form, ends.rank, "gloo", LIMITS)


def test_an_order_that_is_over_already_is_passed_over(ends: Ends):
    for message in (alone(1), Abandon(1), alone(2)):
        ends.keeper.send(message)
    assert ends.told.wait(WAIT_S)
    assert ends.rank.next_form(0, WAIT_S) == alone(2)


def test_pairs_that_come_before_their_order_are_kept_for_it(ends: Ends):
    ends.keeper.send(Posted(2, "here", b"early"))
    ends.keeper.send(Posted(1, "here", b"late"))
    ends.keeper.send(alone(2))
    ends.rank.next_form(0, WAIT_S)
    assert ends.rank.posted(2, "here", WAIT_S) == b"early"
