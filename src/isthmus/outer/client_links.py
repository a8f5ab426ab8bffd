"""What a site's client writes down of its links to the servers. NumPy only."""

from isthmus.clock import Clock
from isthmus.journal import events as journal
from isthmus.journal.writer import Journal
from isthmus.wire.transport import Peer

SAMPLE_S = 2.0


class Links:
    def __init__(self, site: str, log: Journal, clock: Clock):
        self._site, self._journal, self._clock = site, log, clock
        self.sampled_s = 0.0
        self.peers: dict[str, Peer] = {}
        """The servers that were reached, by address."""

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
