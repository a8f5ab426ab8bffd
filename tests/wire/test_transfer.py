"""Transfers under seeded schedules of loss, duplication, reordering, damage and cut connections."""

import random

import pytest

from isthmus.errors import InputError
from isthmus.wire import transfer
from isthmus.wire.frames import FrameError
from isthmus.wire.inbox import Arrival, Inbox, Verdict
from isthmus.wire.transfer import MIN_CHUNK, Offer, Outbox

STREAMS = 3


class Network:
    """Both halves with a lossy network in between, driven by one random generator."""

    def __init__(self, seed, window=1):
        self.random, self.window = random.Random(seed), window * MIN_CHUNK
        self.outbox, self.inbox = Outbox(), Inbox()
        self.to_receiver, self.to_sender = [], []
        self.copies, self.completed, self.sent, self.cuts, self.damaged = {}, [], [], 0, 0

    def put(self, key, size):
        self.to_receiver.append(("offer", self.outbox.put(key, size, MIN_CHUNK)))

    def cut(self):
        self.cuts += 1
        self.to_receiver, self.to_sender = [], []
        self.outbox.link_down()
        self.inbox.link_down()
        self.to_receiver += [("offer", offer) for offer in self.outbox.offers()]

    def step(self):
        roll = self.random.random()
        if roll < 0.02 and self.cuts < 6:
            return self.cut()
        if roll < 0.5:
            stream = self.random.randrange(STREAMS)
            chunk = self.outbox.next_chunk(stream, self.window)
            if chunk:
                self.to_receiver.append(("chunk", chunk))
                if self.random.random() < 0.1:
                    self.to_receiver.append(("chunk", chunk))
            return None
        queue = self.to_receiver if roll < 0.75 else self.to_sender
        if queue:
            kind, body = queue.pop(self.random.randrange(len(queue)))
            getattr(self, kind)(body)
        return None

    def offer(self, offer):
        verdict = self.inbox.offered(offer)
        if verdict is Verdict.NEW:
            self.copies[offer.transfer] = set()
            if self.inbox.begin(offer):
                self.completed.append(offer.key)
        self.to_sender.append(("accept", (offer.transfer, self.inbox.have(offer.transfer))))

    def accept(self, body):
        self.note(self.outbox.accepted(*body))

    def chunk(self, chunk):
        index = self.inbox.arriving(chunk.transfer, chunk.offset, chunk.length)
        if index is None:
            return
        intact = self.random.random() > 0.03
        self.damaged += not intact
        outcome = self.inbox.arrived(chunk.transfer, index, intact)
        if outcome is Arrival.REJECTED:
            self.to_sender.append(("reject", (chunk.transfer, index)))
            return
        assert index not in self.copies[chunk.transfer], "a chunk was written twice"
        self.copies[chunk.transfer].add(index)
        if outcome is Arrival.COMPLETE:
            self.completed.append(f"k{chunk.transfer}")
        self.to_sender.append(("confirm", (chunk.transfer, index)))

    def confirm(self, body):
        self.note(self.outbox.confirmed(*body))

    def reject(self, body):
        self.outbox.rejected(*body)

    def note(self, key):
        if key:
            self.sent.append(key)


@pytest.mark.parametrize("seed", range(60))
def test_everything_arrives_once_and_little_is_sent_again(seed):
    net = Network(seed, window=1 + seed % 3)
    sizes = [net.random.randrange(0, 12) * MIN_CHUNK + net.random.randrange(0, MIN_CHUNK) for _ in range(5)]
    sizes.append(0)
    for number, size in enumerate(sizes, 1):
        net.put(f"k{number}", size)
    for _ in range(20_000):
        net.step()
        if not len(net.outbox):
            break
    assert not len(net.outbox), f"seed {seed}: unfinished"
    keys = sorted(f"k{number}" for number in range(1, len(sizes) + 1))
    assert sorted(net.sent) == keys
    assert sorted(net.completed) == keys
    for number, size in enumerate(sizes, 1):
        assert len(net.copies[number]) == -(-size // MIN_CHUNK)
    in_flight = STREAMS * (1 if seed % 3 == 0 else 8)
    assert net.outbox.resent_chunks <= net.cuts * in_flight + net.damaged


def test_a_cut_costs_at_most_one_chunk_per_stream_at_window_one():
    outbox = Outbox()
    offer = outbox.put("k", 10 * MIN_CHUNK, MIN_CHUNK)
    outbox.accepted(offer.transfer, bytes(10))
    assert [outbox.next_chunk(stream, 1) is None for stream in (0, 1, 0, 1)] == [False, False, True, True]
    outbox.link_down()
    assert outbox.next_chunk(0, 1) is None, "nothing goes out before the receiver said what it has"
    outbox.accepted(offer.transfer, bytes([1] + [0] * 9))
    again = [outbox.next_chunk(stream, 16 * MIN_CHUNK) for stream in (0, 1) for _ in range(9)]
    assert [chunk.index for chunk in again if chunk] == list(range(1, 10))
    assert outbox.resent_chunks == 1


def test_nonsense_from_the_other_side_changes_nothing_or_is_a_frame_error():
    outbox, inbox = Outbox(), Inbox()
    offer = outbox.put("k", 3 * MIN_CHUNK + 5, MIN_CHUNK)
    assert outbox.accepted(99, b"") is None
    assert outbox.accepted(offer.transfer, b"\1" * 9) is None
    assert outbox.confirmed(offer.transfer, 77) is None
    outbox.rejected(offer.transfer, 2)
    inbox.begin(offer)
    for offset, length in ((1, 5), (0, 5), (4 * MIN_CHUNK, 5), (3 * MIN_CHUNK, 6)):
        with pytest.raises(FrameError):
            inbox.arriving(offer.transfer, offset, length)
    assert inbox.arrived(offer.transfer, 1, True) is Arrival.IGNORED
    assert inbox.arriving(55, 0, 1) is None
    with pytest.raises(FrameError):
        inbox.offered(Offer(offer.transfer, "other", 1, MIN_CHUNK, 1))
    with pytest.raises(FrameError):
        inbox.offered(Offer(9, "tiny chunks", 1, 10, 1))


def test_a_cancelled_transfer_frees_its_window():
    outbox = Outbox()
    first, second = outbox.put("a", MIN_CHUNK, MIN_CHUNK), outbox.put("b", MIN_CHUNK, MIN_CHUNK)
    outbox.accepted(first.transfer, bytes(1))
    outbox.accepted(second.transfer, bytes(1))
    assert outbox.next_chunk(0, 1).transfer == first.transfer
    assert outbox.cancel(first.transfer)
    assert not outbox.cancel(first.transfer)
    assert outbox.next_chunk(0, 1).transfer == second.transfer


def test_transfers_are_bounded(monkeypatch):
    monkeypatch.setattr(transfer, "MAX_TRANSFERS", 2)
    outbox = Outbox()
    outbox.put("a", 1, MIN_CHUNK)
    outbox.put("b", 1, MIN_CHUNK)
    with pytest.raises(InputError):
        outbox.put("c", 1, MIN_CHUNK)


@pytest.mark.parametrize(
    ("rate_bps", "rtt_s", "chunk_mib", "window"),
    [(100e6, 0.03, 1, 750_000), (1e9, 0.03, 4, 7_500_000), (20e9, 50e-6, 4, 12_500_000), (0, 0, 1, 0)],
)
def test_chunk_and_window_follow_the_link(rate_bps, rtt_s, chunk_mib, window):
    assert transfer.choose_chunk(rate_bps, rtt_s) == chunk_mib << 20
    assert transfer.choose_window(rate_bps, rtt_s, streams=2) == window


def test_small_payloads_share_a_window():
    outbox = Outbox()
    for number in range(6):
        offer = outbox.put(f"k{number}", 100_000, MIN_CHUNK)
        outbox.accepted(offer.transfer, bytes(1))
    taken = [outbox.next_chunk(0, 350_000) for _ in range(4)]
    assert [chunk is not None for chunk in taken] == [True, True, True, False]
