"""What a site's client writes down of its links to the servers, and what it finds wrong with them."""

import os

from isthmus.clock import Clock
from isthmus.faults.detect.clock_skew import ClockDetector, Offset
from isthmus.faults.detect.link import LinkDetector, LinkSample
from isthmus.faults.detect.process import read_contention
from isthmus.faults.detect.standing import Standing
from isthmus.faults.finding import Finding
from isthmus.journal import events as journal
from isthmus.journal.writer import Journal
from isthmus.wire.transport import Peer

SAMPLE_S = 2.0
JUDGED = 3
"""Samples that one judgement of a link rests on."""
CROWDED = 1.5
"""So many times more threads than usual want to run: what is measured then is the machine."""
_USUAL = 0.05
"""Of what is usual, that each judgement makes."""


class Links:
    def __init__(self, site: str, log: Journal, clock: Clock):
        self._site, self._journal, self._clock = site, log, clock
        self.sampled_s = 0.0
        self.peers: dict[str, Peer] = {}
        """The servers that were reached, by address."""
        self._watch = LinkWatch(site)
        self._cores = len(os.sched_getaffinity(0))

    def note_down(self, server: str, reason: str) -> None:
        self._journal.emit(
            journal.Fault(subject=f"link/{self._site}", kind="link_down", detail=f"{server}: {reason}")
        )

    def sample(self) -> None:
        """Every few seconds, whenever it is called."""
        if self._clock.now_s() - self.sampled_s < SAMPLE_S:
            return
        self.sampled_s = self._clock.now_s()
        for server, peer in list(self.peers.items()):
            stats = peer.stats()
            self._journal.emit(
                journal.LinkSample(
                    site=self._site,
                    bytes_up=stats.bytes_up,
                    bytes_down=stats.bytes_down,
                    rtt_s=stats.rtt_s,
                    up_bps=stats.up_bps,
                    down_bps=stats.down_bps,
                    resent_chunks=stats.resent_chunks,
                    connected=peer.up,
                    server=server,
                )
            )
        for event in self._watch.look(self.sampled_s, self.peers, read_contention(self._cores)):
            self._journal.emit(event)


class LinkWatch:
    """Links that get worse, and clocks that are apart, from what is measured anyway."""

    def __init__(self, site: str):
        self._site = site
        self._standing = Standing()
        self._links, self._clocks = LinkDetector(self._standing), ClockDetector(self._standing)
        self._contention: list[float] = []
        self._usual = 0.0

    def look(
        self, now_s: float, peers: dict[str, Peer], contention: float
    ) -> list[journal.Fault | journal.Recovered]:
        """What began or ended, at every `JUDGED`th call.

        Args:
            contention: threads that want to run, for each processor.
        """
        self._contention.append(contention)
        if len(self._contention) < JUDGED:
            return []
        most, self._contention = max(self._contention), []
        is_crowded = most > CROWDED * (self._usual or most)
        self._usual += (most - self._usual) * (_USUAL if self._usual else 1.0)
        told: list[journal.Fault | journal.Recovered] = []
        for server, peer in list(peers.items()):
            now = peer.measured()
            if is_crowded:
                continue
            sample = LinkSample(
                up_mbps=now.up_bps and now.up_bps / 1e6,
                down_mbps=now.down_bps and now.down_bps / 1e6,
                rtt_s=now.rtt_s,
                retransmitted=now.resent,
            )
            found = self._links.observe(now_s, server, sample)
            if now.clock_offset_s is not None and now.rtt_s is not None:
                found += self._clocks.observe(now_s, server, Offset(now.clock_offset_s, now.rtt_s))
            told += [self._fault(each) for each in found]
        return told + [self._over(each, now_s) for each in self._standing.take_ended()]

    def _fault(self, found: Finding) -> journal.Fault:
        return journal.Fault(subject=self._subject(found), kind=found.kind, detail=found.what)

    def _over(self, found: Finding, now_s: float) -> journal.Recovered:
        after_s = now_s - found.began_s
        return journal.Recovered(subject=self._subject(found), kind=found.kind, after_s=after_s)

    def _subject(self, found: Finding) -> str:
        return f"link/{self._site}" if found.kind == "network_degraded" else f"site {self._site}"
