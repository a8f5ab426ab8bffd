"""The site-client machine, rule by rule."""

import pytest
from msgspec.structs import replace

from isthmus.outer import member
from isthmus.outer.member import state
from isthmus.outer.messages import (
    Accepted,
    Applied,
    Discarded,
    Fenced,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
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

TERMS = Terms(budget=1000, inner_steps=4, heartbeat_s=1.0, outage_reserve_s=0.0)


class Client:
    """Drives the machine as an executor would; encoding and disk are instant."""

    def __init__(self, terms=TERMS, **given):
        self.terms = terms
        self.state = member.MemberState(site="a", incarnation=1, **given)
        self.done = []

    def feed(self, event):
        self.state = member.apply(self.state, event)
        for _ in range(100):
            actions = member.plan(self.state)
            if not actions:
                return
            self.state = member.apply(self.state, state.Issued(tuple(actions)))
            for action in actions:
                self.done.append(action)
                match action:
                    case state.Encode():
                        self.state = member.apply(self.state, state.Encoded(action.seq, 1.0, ()))
                    case state.PersistBallot():
                        durable = state.BallotDurable(action.epoch, action.candidate)
                        self.state = member.apply(self.state, durable)
        raise AssertionError("does not settle")

    def hear(self, message, server="primary"):
        self.feed(state.Received(server, message))

    def of(self, kind):
        return [action for action in self.done if isinstance(action, kind)]

    def said(self, kind):
        return [send.message for send in self.of(state.Send) if isinstance(send.message, kind)]

    def welcome(self, server="primary", **changes):
        said = Welcome(
            epoch=1, incarnation=1, session=self.said(Hello)[-1].session, admission=1, terms=self.terms,
            batch_size=1, version=0, window=4, grants=0, held=(), seq=0, fate="",
        )  # fmt: skip
        self.hear(replace(said, **changes), server)

    def version(self, version, base=None, result=None, merged=None, epoch=1):
        base = version - 1 if base is None else base
        self.hear(
            VersionReady(
                epoch=epoch, version=version, base=base, hash=f"h{version}", contributors=(),
                merged=merged or {}, window=4,
            )
        )  # fmt: skip
        self.feed(state.VersionArrived(version, base, 0.1))
        self.feed(state.Installed(version, result or f"h{version}"))

    def push(self, ranges):
        self.feed(state.Pushed(ranges, 10, (), 4, 0.5))

    def take(self):
        self.feed(state.Taken(self.of(state.OfferBase)[-1].version))


def training(terms=TERMS, work=((0, 40),)):
    """Welcomed, on version 0, with work."""
    client = Client(terms)
    client.feed(state.LinkUp("primary"))
    client.feed(state.RanksAttached("h0"))
    client.welcome()
    client.take()
    client.hear(Grant(epoch=1, number=1, ranges=work, window=4))
    return client


def test_it_says_hello_when_ranks_and_link_are_there():
    client = Client()
    client.feed(state.LinkUp("primary"))
    assert not client.said(Hello)
    client.feed(state.RanksAttached("h0"))
    (hello,) = client.said(Hello)
    assert (hello.version, hello.version_hash, hello.session) == (0, "h0", 1)


def test_ranks_start_on_the_version_with_fresh_moments_and_then_get_work():
    client = training()
    assert client.of(state.TellStart) == [state.TellStart(TERMS, may_push=True)]
    assert client.of(state.OfferBase) == [state.OfferBase(0, None, 0, True, True)]
    assert client.of(state.GiveWork) == [state.GiveWork(((0, 40),))]
    assert client.said(WantWork)[0].samples == 12


def test_an_unanswered_hello_is_repeated():
    client = Client()
    client.feed(state.LinkUp("primary"))
    client.feed(state.RanksAttached())
    client.feed(state.Tick(6.0))
    assert [hello.session for hello in client.said(Hello)] == [1, 2]


def test_only_the_answer_to_the_last_hello_counts():
    client = training()
    client.hear(Rejoin(epoch=1))
    assert client.state.home == ""
    client.welcome(session=1, held=())
    assert client.state.home == ""
    client.welcome(held=((0, 40),), grants=1)
    assert client.state.home == "primary"
    client.welcome(held=())  # the same once more
    assert client.state.work == ((0, 40),)


def test_a_push_is_encoded_and_uploaded_and_pending_until_merged():
    client = training()
    client.push(((0, 4),))
    (upload,) = client.of(state.Upload)
    made = upload.contribution
    assert (made.seq, made.base_version, made.ranges, made.admission) == (1, 0, ((0, 4),), 1)
    client.hear(Accepted(epoch=1, incarnation=1, seq=1))
    assert not client.of(state.TellMayPush)
    client.version(1, merged={"b": (1, 1)})
    assert client.of(state.OfferBase)[-1] == state.OfferBase(1, 1, 1, False, False)
    client.take()
    client.version(2, merged={"a": (1, 1)})
    assert client.of(state.Forget) == [state.Forget(1, False)]
    assert client.of(state.TellMayPush)
    assert client.of(state.OfferBase)[-1] == state.OfferBase(2, None, 1, False, False)


def test_a_contribution_without_a_fate_is_sent_again_after_a_reconnect():
    client = training()
    client.push(((0, 4),))
    client.feed(state.LinkDown("primary"))
    client.feed(state.LinkUp("primary"))
    client.welcome(held=((0, 40),), grants=1)
    assert len(client.of(state.Upload)) == 2
    assert client.state.work == ((4, 40),)


def test_a_fate_told_by_the_welcome_ends_the_resending():
    client = training()
    client.push(((0, 4),))
    client.feed(state.LinkDown("primary"))
    client.feed(state.LinkUp("primary"))
    client.welcome(held=((4, 40),), grants=1, seq=1, fate="accepted")
    assert len(client.of(state.Upload)) == 1


@pytest.mark.parametrize(
    ("reason", "reset"), [("stale", False), ("lease_lost", False), ("quarantined", True)]
)
def test_a_discard_drops_it_from_the_base(reason, reset):
    client = training()
    client.push(((0, 4),))
    client.hear(Discarded(epoch=1, incarnation=1, seq=1, reason=reason))
    assert client.of(state.Forget) == [state.Forget(1, True)]
    assert client.of(state.OfferBase)[-1] == state.OfferBase(0, None, 1, reset, reset)
    assert client.of(state.TellMayPush)


def test_a_push_before_the_reset_was_taken_is_void():
    client = training()
    client.push(((0, 4),))
    client.hear(Discarded(epoch=1, incarnation=1, seq=1, reason="quarantined"))
    client.push(((4, 8),))
    assert len(client.of(state.Encode)) == 1
    assert client.of(state.OfferBase)[-1] == state.OfferBase(0, None, 2, True, True)
    client.take()
    assert client.of(state.GiveWork)[-1].ranges == ((4, 40),)


def test_work_that_went_to_others_makes_the_ranks_start_over():
    client = training()
    client.feed(state.LinkDown("primary"))
    client.feed(state.LinkUp("primary"))
    client.welcome(held=((8, 40),), grants=1)
    assert client.of(state.OfferBase)[-1] == state.OfferBase(0, None, 0, True, False)
    client.take()
    assert client.of(state.GiveWork)[-1].ranges == ((8, 40),)


def test_leases_of_an_earlier_membership_are_void_even_if_the_ranges_are_the_same():
    client = training()
    client.hear(Rejoin(epoch=1))
    client.welcome(held=((0, 40),), grants=2, admission=2)
    assert client.of(state.OfferBase)[-1].reset


def test_what_a_void_push_worked_on_is_work_again_when_this_membership_leases_it():
    client = training()
    client.push(((0, 40),))
    client.feed(state.LinkDown("primary"))
    client.feed(state.LinkUp("primary"))
    client.welcome(grants=1, admission=2)
    client.feed(state.LinkDown("primary"))  # the grant of (0, 8) is lost on the way
    client.feed(state.LinkUp("primary"))
    client.welcome(held=((0, 8),), grants=2, admission=2)
    assert client.of(state.GiveWork)[-1].ranges == ((0, 8),)


def test_a_grant_is_taken_once():
    client = training()
    for _ in range(2):
        client.hear(Grant(epoch=1, number=1, ranges=((50, 60),), window=4))
    assert client.state.work == ((0, 40),)


def test_dead_ranks_leave_their_work_to_others():
    client = training()
    client.push(((0, 4),))
    client.feed(state.RanksGone())
    assert client.said(Lost) == [Lost(incarnation=1, admission=1, ranges=((4, 40),))]
    client.feed(state.RanksAttached())
    assert client.of(state.TellStart)[-1].may_push is False
    assert client.of(state.OfferBase)[-1] == state.OfferBase(0, 1, 0, True, True)


def test_a_gap_or_a_wrong_hash_asks_for_the_whole_version():
    client = training()
    client.hear(VersionReady(epoch=1, version=3, base=2, hash="h3", contributors=(), merged={}, window=4))
    assert len(client.said(WantRefresh)) == 1
    client.version(3, base=-1)
    assert client.said(Applied)[-1].version == 3
    client.version(4, result="other")
    assert len(client.said(WantRefresh)) == 2
    assert client.state.version == -1
    client.version(4, base=-1)
    assert client.said(Applied)[-1].version == 4


def test_a_version_that_is_replaced_at_once_is_not_offered():
    """An executor installs when told, so a base offered after that would be of the newer version."""
    client = training()
    for number in (1, 2):
        client.hear(
            VersionReady(
                epoch=1, version=number, base=number - 1, hash=f"h{number}", contributors=(),
                merged={}, window=4,
            )
        )  # fmt: skip
        client.feed(state.VersionArrived(number, number - 1, 0.1))
    client.feed(state.Installed(1, "h1"))
    client.feed(state.Installed(2, "h2"))
    assert [install.ready.version for install in client.of(state.Install)] == [1, 2]
    assert [offer.version for offer in client.of(state.OfferBase)] == [0, 2]


def test_an_older_version_is_not_taken():
    client = training()
    client.version(1)
    client.version(1, base=-1)
    client.version(0, base=-1)
    assert [action.ready.version for action in client.of(state.Install)] == [1]


def test_a_server_of_a_lower_epoch_is_fenced_off():
    client = training()
    client.hear(Rejoin(epoch=2), server="standby")
    client.hear(Grant(epoch=1, number=2, ranges=((50, 60),), window=4))
    assert client.state.work == ((0, 40),)
    fenced = [send for send in client.of(state.Send) if isinstance(send.message, Fenced)]
    assert fenced == [state.Send("primary", Fenced(epoch=2))]


def test_the_home_server_may_move_to_a_new_epoch():
    client = training()
    client.hear(Grant(epoch=2, number=2, ranges=((50, 60),), window=4))
    assert (client.state.epoch, client.state.home) == (2, "primary")


def ask(client, candidate, epoch, log_epoch):
    client.hear(VoteRequest(epoch=epoch, candidate=candidate, log_epoch=log_epoch), server=candidate)
    return client.said(VoteGranted)


def test_one_vote_per_epoch_and_it_is_durable_first():
    client = training()
    assert ask(client, "standby", 2, 1) == [VoteGranted(epoch=2, candidate="standby")]
    assert client.of(state.PersistBallot) == [state.PersistBallot(2, "standby")]
    assert len(ask(client, "primary", 2, 1)) == 1
    assert len(ask(client, "standby", 2, 1)) == 2
    assert len(client.of(state.PersistBallot)) == 1


def test_no_vote_for_a_log_that_ends_before_a_promise():
    client = training()
    ask(client, "primary", 2, 1)
    assert len(ask(client, "standby", 3, 1)) == 1
    assert len(ask(client, "standby", 3, 2)) == 2


def test_a_restarted_client_remembers_its_ballot():
    client = Client(voted_epoch=2, voted_for="standby")
    assert ask(client, "primary", 2, 1) == []


def test_heartbeats_come_at_their_interval():
    client = training()
    for now_s in (0.5, 1.2, 1.5, 2.3):
        client.feed(state.Tick(now_s))
    assert len(client.said(Heartbeat)) == 2


def test_the_budgets_end_waits_for_the_last_version():
    client = training()
    client.hear(VersionReady(epoch=1, version=1, base=0, hash="h1", contributors=(), merged={}, window=4))
    client.hear(Stop(epoch=1, reason="budget"))
    assert not client.of(state.TellStop)
    client.feed(state.VersionArrived(1, 0, 0.1))
    client.feed(state.Installed(1, "h1"))
    client.take()
    assert client.of(state.TellStop) == [state.TellStop("budget")]
    client.feed(state.Leaving("budget"))
    assert client.said(Goodbye)
    assert client.of(state.Exit) == [state.Exit("budget")]


def test_a_site_leaves_when_its_last_contribution_is_safe():
    client = training()
    client.feed(state.StopAsked("leave"))
    client.push(((0, 2),))
    client.feed(state.Leaving("leave"))
    assert not client.said(Goodbye)
    client.hear(Accepted(epoch=1, incarnation=1, seq=1))
    assert client.said(Goodbye) == [Goodbye(incarnation=1, reason="leave")]


def test_leaving_without_a_server_is_bounded():
    client = training()
    client.feed(state.LinkDown("primary"))
    client.feed(state.StopAsked("leave"))
    client.feed(state.Leaving("leave"))
    client.feed(state.Tick(30.0))
    assert not client.of(state.Exit)
    client.feed(state.Tick(61.0))
    assert client.of(state.Exit)


def test_a_refusal_reaches_the_ranks():
    client = Client()
    client.feed(state.LinkUp("primary"))
    client.feed(state.RanksAttached())
    client.hear(Refused(epoch=1, incarnation=7, reason="other", hint=""))
    assert not client.of(state.TellRefused)
    client.hear(Refused(epoch=1, incarnation=1, reason="model", hint="compare"))
    assert client.of(state.TellRefused) == [state.TellRefused("model", "compare")]


def test_strict_sites_do_not_ask_for_work():
    client = training(terms=replace(TERMS, mode="strict"))
    assert not client.said(WantWork)
