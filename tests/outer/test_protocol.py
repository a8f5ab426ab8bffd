"""The server machine, rule by rule."""

from itertools import count

import msgspec
import pytest
from msgspec.structs import replace

from isthmus.outer import protocol
from isthmus.outer.messages import (
    Accepted,
    Applied,
    Contribution,
    Discarded,
    Fenced,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
    Identity,
    Lost,
    Refused,
    Rejoin,
    Stop,
    Terms,
    VersionReady,
    VoteGranted,
    VoteRequest,
    WantRefresh,
    WantWork,
    Welcome,
)
from isthmus.outer.protocol import ServerConfig, records, state
from isthmus.outer.ranges import total

IDENTITY = Identity(model_hash="m", data_hash="d", code_version="1", layout_hash="l")
SESSIONS = count(1)
SEEDED = records.Book(hash="h0")


class Server:
    """Drives the machine as an executor with an instant disk would."""

    def __init__(self, log=(), now_s=0.0, **config):
        defaults = {"sites": ("a", "b"), "identity": IDENTITY, "terms": Terms(budget=120, inner_steps=4)}
        self.config = ServerConfig(**{**defaults, **config})
        self.log = list(log)
        self.said = []
        self.other = []
        self.disk_full = False
        self.now_s = now_s
        self.state = protocol.start(self.config, records.replay(self.log, SEEDED), now_s)
        self.settle()

    @property
    def book(self):
        return self.state.book

    def feed(self, event):
        self.state = protocol.apply(self.state, event)
        self.settle()

    def settle(self):
        for _ in range(100):
            actions = protocol.plan(self.state)
            if not actions:
                return
            self.state = protocol.apply(self.state, state.Issued(tuple(actions)))
            for action in actions:
                self.execute(action)
        raise AssertionError("does not settle")

    def execute(self, action):
        match action:
            case state.Send():
                self.said.append((action.site, action.message))
            case state.Persist():
                if self.disk_full:
                    self.state = protocol.apply(self.state, state.PersistFailed("full"))
                else:
                    self.log += action.records
                    self.state = protocol.apply(self.state, state.Persisted(action.records))
            case state.Merge():
                self.other.append(action)
                self.state = protocol.apply(self.state, state.MergeDone(action.version, f"h{action.version}"))
            case _:
                self.other.append(action)

    def hear(self, site, message):
        self.feed(state.Received(site, message))

    def tick(self, seconds=1.0):
        self.now_s += seconds
        self.feed(state.Tick(self.now_s))

    def join(self, site, incarnation=1, version=0, **changes):
        self.feed(state.PeerUp(site))
        hello = Hello(
            site=site, incarnation=incarnation, session=next(SESSIONS), identity=IDENTITY, epoch=0,
            version=version, version_hash=f"h{version}",
        )  # fmt: skip
        self.hear(site, replace(hello, **changes))

    def want(self, site, samples=8, rate=1.0):
        site_book = self.book.sites[site]
        self.hear(
            site,
            WantWork(
                incarnation=site_book.incarnation, grants=site_book.grants, samples=samples,
                step_rate=rate, up_s=0.1, down_s=0.1,
            ),
        )  # fmt: skip

    def contribution(self, site, seq=1, ranges=None, base_version=0, **changes):
        site_book = self.book.sites[site]
        made = Contribution(
            site=site, incarnation=site_book.incarnation, seq=seq, admission=site_book.admission,
            base_version=base_version, ranges=ranges or site_book.held, tokens=80, steps=4,
        )  # fmt: skip
        return replace(made, **changes)

    def push(self, site, seq=1, norm=1.0, finite=True, **changes):
        made = self.contribution(site, seq, **changes)
        self.feed(state.Arrived(site, made, finite, norm))
        return made

    def heard(self, kind, site=None):
        return [message for to, message in self.said if isinstance(message, kind) and site in (None, to)]


def working(**config):
    """Two sites with eight samples each."""
    server = Server(**config)
    for site in "ab":
        server.join(site)
        server.want(site)
    return server


def test_nobody_is_answered_before_the_epoch_is_durable():
    server = Server()
    assert server.log[0] == records.ServerStarted(epoch=1)
    server.join("a")
    assert server.heard(Welcome)[0].epoch == 1
    again = Server(log=server.log)
    assert again.book.epoch == 2


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model_hash": "x"}, "another model"),
        ({"data_hash": "x"}, "other data"),
        ({"code_version": "2"}, "code version 2"),
        ({"layout_hash": "x"}, "another model"),
    ],
)
def test_unlike_sites_are_refused_with_a_remedy(changes, part):
    server = Server()
    server.join("a", identity=replace(IDENTITY, **changes))
    (refused,) = server.heard(Refused)
    assert part in refused.reason
    assert refused.hint
    assert "a" not in server.book.sites


def test_an_older_client_of_a_site_is_refused():
    server = Server()
    server.join("a", incarnation=2)
    server.join("a", incarnation=1)
    assert "newer client" in server.heard(Refused)[0].reason


def test_a_site_outside_the_fleet_is_refused():
    server = Server()
    server.join("z")
    assert "not in the fleet" in server.heard(Refused)[0].reason


def test_a_site_that_has_the_version_is_not_sent_it():
    server = Server()
    server.join("a", version=0, version_hash="h0")
    assert not server.heard(VersionReady)


def test_work_is_granted_in_batches_and_capped_near_the_end():
    server = Server(terms=Terms(budget=40, inner_steps=4, batch_size=4))
    server.join("a")
    server.join("b")
    server.want("a", samples=1000)
    assert total(server.book.sites["a"].held) == 8  # half of the fair share of 40, whole batches
    server.want("a", samples=1000)
    assert total(server.book.sites["a"].held) == 8


def test_a_wish_older_than_the_last_grant_is_ignored():
    server = working()
    stale = WantWork(incarnation=1, grants=0, samples=8, step_rate=1, up_s=0, down_s=0)
    server.hear("a", stale)
    assert server.book.sites["a"].grants == 1


def test_a_contribution_resent_is_answered_and_not_accepted_again():
    server = working()
    made = server.push("a")
    server.feed(state.Arrived("a", made, True, 1.0))
    assert [message.seq for message in server.heard(Accepted)] == [1, 1]
    assert sum(isinstance(record, records.ContributionAccepted) for record in server.log) == 1


def test_ranges_no_longer_held_are_lease_lost():
    server = working()
    server.push("a", ranges=((0, 9),))
    assert server.heard(Discarded)[0].reason == "lease_lost"
    assert server.book.free == ((0, 8),)


def test_a_contribution_of_an_earlier_membership_is_lease_lost_and_returns_nothing():
    server = working()
    made = server.contribution("a")
    server.tick(4)
    for _ in range(10):
        server.tick(4)
        server.hear("b", Heartbeat(incarnation=1, epoch=1, step_rate=1, up_s=0, down_s=0))
    assert server.book.members == ("b",)
    server.join("a")
    server.want("a")
    held = server.book.sites["a"].held
    server.feed(state.Arrived("a", made, True, 1.0))
    assert server.heard(Discarded)[0].reason == "lease_lost"
    assert server.book.sites["a"].held == held


def test_stale_contributions_are_discarded():
    server = working(staleness_max=0)
    server.push("b")
    server.push("a")
    assert server.book.version == 1
    server.want("a")
    server.push("a", seq=2, base_version=0)
    assert server.heard(Discarded, "a")[0].reason == "stale"


@pytest.mark.parametrize(("finite", "norm"), [(False, 1.0), (True, float("nan")), (True, 1e6)])
def test_bad_contributions_are_quarantined(finite, norm):
    server = working()
    server.state = replace(server.state, book=replace(server.book, norms=(1.0,) * 5))
    server.push("a", finite=finite, norm=norm)
    assert server.heard(Discarded)[0].reason == "quarantined"
    assert server.book.strikes[0] == ((0, 8),)


def test_a_range_quarantined_three_times_is_poisoned():
    server = working(terms=Terms(budget=16, inner_steps=4))
    seqs = count(1)
    server.push("b")
    while total(server.book.poisoned) < 8:
        server.want("a")
        assert server.book.sites["a"].held
        server.push("a", seq=next(seqs), finite=False)
    assert next(seqs) <= 25
    assert not server.book.free
    records.check(server.book)


def test_the_median_is_of_norms_the_server_measured():
    server = working()
    server.push("a", norm=5.0, ranges=None)
    assert server.book.norms == (5.0,)


def test_all_in_merges_at_once_in_site_order():
    server = working()
    server.push("b")
    assert not server.other
    server.push("a")
    merge = server.other[0]
    assert [contribution.site for contribution in merge.contributions] == ["a", "b"]
    assert (merge.share, merge.full) == (1.0, True)
    assert server.other[1] == state.Publish(1, 1)
    assert server.heard(VersionReady, "a")[0].merged == {"a": (1, 1), "b": (1, 1)}


def test_below_full_quorum_the_merge_waits_for_the_grace_only():
    server = working()
    server.push("a")
    server.tick(1.0)
    assert not server.other
    for _ in range(4):
        server.tick(1.0)
    merge = server.other[0]
    assert (merge.share, merge.full) == (0.5, False)
    assert server.state.live.missed == ("b",)
    server.push("b")
    assert server.state.live.lateness_s


def test_weights_discount_staleness():
    server = working()
    server.push("a")
    server.tick(8.0)
    server.tick(1.0)
    assert server.book.version == 1
    server.want("a")
    server.push("b", base_version=0)
    server.push("a", seq=2, base_version=1)
    merge = next(action for action in server.other if getattr(action, "version", 0) == 2)
    assert merge.staleness == (0, 1)
    assert merge.weights == (80.0, 80.0 / 2**0.5)


def test_strict_grants_two_rounds_and_waits_for_all():
    server = Server(terms=Terms(mode="strict", budget=24, inner_steps=3, batch_size=2), quorum=1)
    server.join("a")
    server.tick()
    assert not server.heard(Grant)
    server.join("b")
    assert server.book.sites["a"].held == ((0, 6), (12, 18))
    assert server.book.sites["b"].held == ((6, 12), (18, 24))
    server.push("a", ranges=((0, 6),))
    for _ in range(10):
        server.tick()
        for site in "ab":
            server.hear(site, Heartbeat(incarnation=1, epoch=1, step_rate=1, up_s=0, down_s=0))
    assert server.book.version == 0
    server.push("b", ranges=((6, 12),))
    assert server.book.version == 1


def test_a_full_disk_acknowledges_nothing_and_tries_again():
    server = working()
    server.disk_full = True
    server.push("a")
    assert not server.heard(Accepted)
    server.disk_full = False
    server.tick(2.0)
    assert server.heard(Accepted)


def test_a_silent_sites_leases_return_and_it_is_told_to_rejoin():
    server = working(site_timeout_s=10)
    server.tick(2.0)
    for _ in range(6):
        server.tick(2.0)
        server.hear("b", Heartbeat(incarnation=1, epoch=1, step_rate=1, up_s=0, down_s=0))
    assert server.book.members == ("b",)
    assert server.book.free == ((0, 8),)
    server.hear("a", Heartbeat(incarnation=1, epoch=1, step_rate=1, up_s=0, down_s=0))
    assert server.heard(Rejoin, "a")


def test_its_own_absence_is_no_silence_of_the_sites():
    server = working(site_timeout_s=10)
    server.tick(100.0)
    server.tick(1.0)
    assert server.book.members == ("a", "b")


def test_a_new_incarnation_gives_back_what_the_old_one_held():
    server = working()
    server.join("a", incarnation=2)
    assert server.book.free == ((0, 8),)
    assert server.book.sites["a"].admission == 2


def test_an_acknowledged_contribution_of_a_dead_site_merges():
    server = working()
    server.push("a")
    server.hear("a", Goodbye(incarnation=1, reason="left"))
    server.push("b")
    assert [c.site for c in server.other[0].contributions] == ["a", "b"]


def test_lost_ranges_return_once():
    server = working()
    for _ in range(2):
        server.hear("a", Lost(incarnation=1, admission=1, ranges=((2, 5),)))
    assert server.book.free == ((2, 5),)
    server.hear("a", Lost(incarnation=1, admission=0, ranges=((5, 6),)))
    assert server.book.free == ((2, 5),)


def test_the_budget_ends_the_run():
    server = working(terms=Terms(budget=16, inner_steps=4))
    done = 0
    for seq in range(1, 20):
        for site in "ab":
            server.want(site)
            if server.book.sites[site].held:
                server.push(site, seq=seq, base_version=server.book.version)
        done = server.book.merged_samples
        if done == 16:
            break
    assert done == 16
    for site in "ab":
        version = server.book.version
        server.hear(site, Applied(incarnation=1, version=version - 1))
        assert server.heard(VersionReady, site)[-1].version == version
        assert server.heard(Stop, site) == [Stop(epoch=1, reason="budget")]
        server.hear(site, Goodbye(incarnation=1, reason="budget"))
    assert server.other[-1] == state.Finish("budget")


def test_a_stop_asked_for_lets_the_sites_push_first():
    server = working()
    server.feed(state.StopAsked("checkpoint"))
    assert server.heard(Stop, "a")[0].reason == "checkpoint"
    server.push("a")
    server.hear("a", Goodbye(incarnation=1, reason="checkpoint"))
    server.hear("b", Goodbye(incarnation=1, reason="checkpoint"))
    assert server.book.merged_samples == 8
    assert server.other[-1] == state.Finish("checkpoint")


def test_a_refresh_sends_the_newest_version_in_full():
    server = working()
    server.push("a")
    server.push("b")
    server.hear("a", WantRefresh(incarnation=1))
    ready = server.heard(VersionReady, "a")[-1]
    assert (ready.version, ready.base) == (1, -1)


def test_replay_gives_the_same_book():
    server = working()
    server.push("a", finite=False)
    server.push("b")
    server.want("a")
    server.push("a", seq=2)
    server.hear("b", Goodbye(incarnation=1, reason="left"))
    assert records.replay(server.log, SEEDED) == server.book
    encoded = [records.encode_record(record) for record in server.log]
    assert records.replay([records.decode_record(data) for data in encoded], SEEDED) == server.book
    packed = msgspec.msgpack.encode(server.book)
    assert msgspec.msgpack.decode(packed, type=records.Book) == server.book
    records.check(server.book)


# ---- standby and epochs


def with_standby():
    server = working()
    server.feed(state.ReplicaHeard("s", 1, 0))
    server.feed(state.ReplicaHeard("s", 1, server.book.length))
    assert server.book.standby == "s"
    return server


def test_nothing_is_said_that_the_standby_lacks():
    server = with_standby()
    server.push("a")
    assert not server.heard(Accepted)
    server.feed(state.ReplicaHeard("s", 1, server.book.length))
    assert not server.heard(Accepted)  # the attachment was durable there, the contribution is next
    server.feed(state.ReplicaHeard("s", 1, server.book.length))
    assert server.heard(Accepted)


def test_a_silent_standby_is_detached_by_a_majority():
    server = with_standby()
    for _ in range(12):
        server.tick(1.0)
    requests = server.heard(VoteRequest)
    assert requests[0] == VoteRequest(epoch=2, candidate="primary", log_epoch=1)
    server.hear("a", VoteGranted(epoch=2, candidate="primary"))
    assert server.book.epoch == 1
    server.hear("b", VoteGranted(epoch=2, candidate="primary"))
    assert (server.book.epoch, server.book.standby) == (2, "")


def test_a_restart_does_not_claim_an_epoch_its_standby_has_not_seen():
    server = with_standby()
    server.feed(state.ReplicaHeard("s", 1, server.book.length))
    again = Server(log=server.log)
    assert (again.book.epoch, again.book.confirmed) == (2, 1)
    again.join("a")
    assert not again.said
    again.feed(state.ReplicaHeard("s", 2, again.book.length))
    again.feed(state.ReplicaHeard("s", 2, again.book.length))
    assert again.heard(Welcome)


@pytest.mark.parametrize("message", [Fenced(epoch=9), None])
def test_a_higher_epoch_makes_it_step_down(message):
    server = working()
    if message is None:
        server.feed(state.ReplicaHeard("s", 9, 0))
    else:
        server.hear("a", message)
    assert server.other[-1] == state.StepDown(9)
    said = len(server.said)
    server.push("a")
    assert len(server.said) == said
