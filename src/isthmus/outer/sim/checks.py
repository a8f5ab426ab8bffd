"""The invariants, checked while a schedule runs and at its end."""

from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from isthmus.outer.member import MemberState
from isthmus.outer.messages import Accepted, Message, VersionReady
from isthmus.outer.protocol import records
from isthmus.outer.ranges import normal, total
from isthmus.outer.sim import numbers
from isthmus.sim.invariant import hold

if TYPE_CHECKING:
    from isthmus.outer.sim.server import SimServer

Id = tuple[str, int, int]

SEEDED = records.Book(hash=numbers.digest(numbers.zeros()))
"""The book of a server that has the first weights and no record yet."""


class Checks:
    def __init__(self) -> None:
        self.epoch_owner: dict[int, str] = {}
        self.hashes: dict[int, str] = {0: numbers.digest(numbers.zeros())}
        self.published_epoch: dict[int, int] = {}
        self.acknowledged: set[Id] = set()
        self.residual: dict[Id, numbers.Vector] = {}
        """Error feedback a client keeps after this contribution, if it is merged."""
        self.discarded: set[Id] = set()
        self.merged_in: dict[int, dict[str, tuple[int, int]]] = {0: {}}
        """Version -> the last merged contribution of each site."""
        self.refreshes = 0
        self.promotions = 0
        self.resets = 0

    def said(self, server: str, site: str, message: Message) -> None:
        """A server speaks: nobody else ever spoke in its epoch; a version has one hash."""
        epoch = getattr(message, "epoch", None)
        candidate = getattr(message, "candidate", None)
        if epoch is not None and candidate is None:
            owner = self.epoch_owner.setdefault(epoch, server)
            hold(owner == server, f"{server} and {owner} both speak in epoch {epoch}")
        if isinstance(message, VersionReady):
            self.merged_in[message.version] = message.merged
            known = self.hashes.setdefault(message.version, message.hash)
            hold(not message.hash or known == message.hash, f"version {message.version} has two hashes")
        elif isinstance(message, Accepted):
            self.acknowledged.add((site, message.incarnation, message.seq))

    def offered(self, site: str, incarnation: int, version: int, minus: int | None) -> None:
        """A base is the version less exactly what this client has in flight."""
        newest = self.merged_in[version].get(site, (0, 0))
        flying = [
            key[2]
            for key in self.residual
            if key[:2] == (site, incarnation) and key[1:] > newest and key not in self.discarded
        ]
        hold(
            flying == ([] if minus is None else [minus]), f"{site} has {flying} in flight, base lacks {minus}"
        )

    def ended(self, site: str, version: int) -> None:
        """Whoever stays to the end holds the last version."""
        newest = max(self.published_epoch, default=0)
        hold(version == newest, f"{site} ends with version {version} of {newest}")

    def fenced(self, before: MemberState, after: MemberState) -> None:
        """A server of a lower epoch changes nothing here but that it is told so."""
        same = replace(after, fence_due=before.fence_due) == before
        hold(same, f"{before.site} heeds a server of a lower epoch than {before.epoch}")

    def published(self, server: str, version: int, epoch: int, hash_: str) -> None:
        known = self.hashes.setdefault(version, hash_)
        hold(known == hash_, f"version {version} has two hashes")
        newest = max(self.published_epoch, default=0)
        if version <= newest:
            return  # a server that slept through its replacement says what was decided; sites fence it off
        before = max(self.published_epoch.values(), default=0)
        hold(epoch >= before, f"{server} publishes {version} in epoch {epoch} after epoch {before}")
        self.published_epoch[version] = epoch

    def installed(self, site: str, before: int, version: int, vector: numbers.Vector) -> None:
        """A site holds a version: the same bits as everywhere, and no step back."""
        hold(version >= before, f"{site} went back from version {before} to {version}")
        hold(
            self.hashes.get(version) == numbers.digest(vector),
            f"{site} holds other bits as version {version}",
        )

    def pushed(self, site: str, delta: numbers.Vector, ranges: tuple[tuple[int, int], ...]) -> None:
        """A pseudo-gradient carries its own ranges' influence and nothing else."""
        exact = bool(np.array_equal(delta[: numbers.EXACT], numbers.value(ranges)))
        hold(exact, f"{site} pushes progress that is not that of {ranges}")

    def finished(self, server: "SimServer", budget: int) -> None:
        """The log of the server that ended the run tells the fate of every sample."""
        log = [record for record, _ in server.disk.entries]
        book = records.replay(log, SEEDED)
        hold(book == server.state.book, "replaying the log gives another book")
        records.check(book)
        contributions = {
            record.contribution.id: record.contribution
            for record in log
            if isinstance(record, records.ContributionAccepted)
        }
        merged = [key for record in log if isinstance(record, records.Merged) for key in record.contributions]
        hold(len(set(merged)) == len(merged), "a contribution is merged twice")
        lost = self.acknowledged - set(merged)
        hold(not lost, f"acknowledged and not merged: {sorted(lost)}")
        pieces = [piece for key in merged for piece in contributions[key].ranges]
        whole = normal([*pieces, *book.poisoned])
        hold(
            sum(end - start for start, end in pieces) + total(book.poisoned) == total(whole), "a sample twice"
        )
        hold(whole == ((0, budget),), f"budget of {budget}, merged or poisoned {whole}")
        self._sums(server, merged, normal(pieces))

    def _sums(self, server: "SimServer", merged: list[Id], ranges: tuple[tuple[int, int], ...]) -> None:
        """Master + what error feedback still holds = the influence of every merged sample, once."""
        last: dict[tuple[str, int], Id] = {}
        for key in merged:
            place = (key[0], key[1])
            last[place] = max(last.get(place, key), key)
        held = sum((self.residual[key] for key in last.values()), numbers.zeros())
        found = -server.master.master[: numbers.EXACT] + held[: numbers.EXACT]
        hold(bool(np.array_equal(found, numbers.value(ranges))), "the master does not hold every sample once")
