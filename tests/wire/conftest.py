import datetime
import threading
import time

import pytest

from isthmus.wire import certs
from isthmus.wire.transport import ClientTls, Listener, ServerTls, Session, Timing

QUICK = Timing(silence_s=1.0, handshake_s=5.0, dial_s=2.0, backoff_s=0.1)


class Recorder:
    """A handler that writes down what happens and lets a test wait for it."""

    def __init__(self):
        self.changed = threading.Condition()
        self.events = []
        self.blobs = {}
        self.declined = set()

    def note(self, *event):
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def wait(self, *event, count=1, timeout_s=20.0):
        with self.changed:
            seen = self.changed.wait_for(lambda: self.count(*event) >= count, timeout_s)
            assert seen, f"no {event} x {count} in {self.events[-20:]}"

    def count(self, *event):
        return sum(1 for one in self.events if one[: len(event)] == event)

    def on_up(self, peer):
        self.note("up", peer.name)

    def on_down(self, peer, reason):
        self.note("down", peer.name, reason)

    def on_message(self, peer, message):
        self.note("message", peer.name, message)

    def allocate(self, peer, key, size):
        return None if key in self.declined else bytearray(size)

    def on_blob(self, peer, key, buffer):
        self.blobs[peer.name, key] = bytes(buffer)
        self.note("blob", peer.name, key)

    def on_sent(self, peer, key):
        self.note("sent", peer.name, key)


@pytest.fixture(scope="session")
def fleet(tmp_path_factory):
    """A folder of certificates for the sites 'a' and 'b'."""
    folder = tmp_path_factory.mktemp("fleet")
    certs.init(folder, ["a", "b"], ["localhost"], datetime.datetime.now(datetime.UTC))
    return folder


@pytest.fixture
def wire(fleet):
    """Builds a listener and sessions with recorders, all closed at the end."""
    opened = []

    class Wire:
        timing = QUICK

        def listen(self, tls=None, timing=QUICK, address=("127.0.0.1", 0)):
            listener = Listener(address, tls or ServerTls.load(fleet), Recorder(), timing)
            opened.append(listener)
            return listener, listener._handler

        def dial(self, address, site="a", tls=None, timing=QUICK, **more):
            session = Session(
                [address], tls or ClientTls.load(fleet, site), Recorder(), timing=timing, **more
            )
            opened.append(session)
            return session, session._handler

        def keep(self, thing):
            opened.append(thing)
            return thing

    before = threading.active_count()
    yield Wire()
    for thing in reversed(opened):
        thing.close()
    deadline_s = time.monotonic() + 5.0
    while threading.active_count() > before and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert threading.active_count() <= before, [thread.name for thread in threading.enumerate()]
