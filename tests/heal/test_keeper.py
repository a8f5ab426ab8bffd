"""Decision tables of the keeper: what happened, and what it asks for."""

import pytest

from isthmus.faults.diagnosis import Diagnosis, Suspicion
from isthmus.faults.finding import Finding
from isthmus.heal.actions import Check, Emit, End, Kill, Remember, Spawn, Tell
from isthmus.heal.agree import agree
from isthmus.heal.decide import decide
from isthmus.heal.events import (
    Checked,
    Diagnosed,
    Exited,
    Found,
    LeaveAsked,
    NodeJoined,
    NodeLost,
    Said,
    Started,
    Tick,
)
from isthmus.heal.messages import (
    Abandon,
    Broken,
    Failed,
    Form,
    Hello,
    Joined,
    Leave,
    Leaving,
    Posted,
    Warm,
)
from isthmus.heal.policy import Policy
from isthmus.heal.state import initial, recover


class Site:
    """A keeper that is fed events, and what it asked for."""

    def __init__(self, world_size=2, nodes=(("a", 2, False),), **policy):
        self.now_s = 0.0
        self.state = initial("site", world_size, Policy(**policy))
        self.actions = []
        for name, slots, spare in nodes:
            self.feed(NodeJoined(name, slots, spare, now_s=0.0))

    def feed(self, event):
        self.state, self.actions = decide(self.state, event)
        return self.actions

    def at(self, after_s=0.01):
        self.now_s += after_s
        return {"now_s": self.now_s}

    def tick(self, after_s=0.01, step=-1):
        return self.feed(Tick(step, **self.at(after_s)))

    def say(self, process, message):
        return self.feed(Said(process, message, **self.at()))

    def exit(self, rank, code=-9, words=""):
        return self.feed(Exited(self.state.members[rank], code, words, **self.at()))

    def warm_all(self):
        for process in list(self.state.processes.values()):
            if process.stage == "spawned":
                self.say(process.id, Warm())
        return self

    def join_all(self, step=0):
        actions = []
        for process in self.state.members:
            actions += self.say(process, Joined(self.state.generation, step))
        return actions

    def running(self, step=0):
        self.warm_all().join_all(step)
        self.warm_all()
        self.tick(step=step)
        return self

    def of(self, kind):
        return [action for action in self.actions if isinstance(action, kind)]

    def told(self, kind):
        return [action.message for action in self.of(Tell) if isinstance(action.message, kind)]


def finding(kind="hang", rank=1, **given):
    return Finding(kind=kind, rank=rank, what="so it is", began_s=1.0, seen_s=2.0, **given)


# ---- beginning


def test_places_are_spawned_then_formed_then_standbys_are():
    site = Site()
    assert [(a.node, a.as_rank) for a in site.of(Spawn)] == [("a", 0), ("a", 1)]
    site.warm_all()
    assert isinstance(site.actions[0], Remember)
    assert [(f.rank, f.world_size, f.fresh) for f in site.told(Form)] == [(0, 2, (0, 1)), (1, 2, (0, 1))]
    assert site.state.generation == site.actions[0].generation == 1
    actions = site.join_all()
    assert [a.as_rank for a in actions if isinstance(a, Spawn)] == [None]


def test_a_spare_keeps_a_process_warm_for_each_of_its_places():
    site = Site(nodes=(("a", 2, False), ("b", 2, True))).warm_all()
    spawned = [a.node for a in site.join_all() if isinstance(a, Spawn)]
    assert spawned == ["a", "b", "b"]


def test_the_first_group_waits_for_all_nodes_and_then_makes_do():
    site = Site(world_size=4, start_timeout_s=30.0).warm_all()
    assert site.state.generation == 0
    site.tick(31.0)
    assert [form.world_size for form in site.told(Form)] == [2, 2]


def test_pairs_are_passed_to_the_others_of_the_generation():
    site = Site(world_size=3, nodes=(("a", 3, False),)).warm_all()
    first, *others = site.state.members
    site.say(first, Posted(1, "k", b"v"))
    assert [a.process for a in site.of(Tell)] == others
    site.say(first, Posted(0, "k", b"v"))
    assert site.actions == []
    site.say(others[0], Hello(others[0], 5, 1, 1))
    assert site.told(Posted) == [Posted(1, "k", b"v")]


# ---- the ladder


@pytest.mark.parametrize(
    ("code", "what"), [(-9, "rank_died"), (0, "silent_exit"), (1, "rank_died"), (None, "rank_died")]
)
def test_a_death_is_healed_by_the_standby(code, what):
    site = Site().running(5)
    survivor = site.state.members[0]
    actions = site.exit(1, code)
    kinds = [type(action.message if isinstance(action, Tell) else action) for action in actions]
    assert kinds == [Emit, Abandon, Remember, Form, Form]
    assert actions[0].what == what
    assert site.state.members[0] == survivor
    assert {form.fresh for form in site.told(Form)} == {(1,)}
    healed = [a for a in site.join_all(6) if isinstance(a, Emit) and a.kind == "healed"]
    assert [(h.what, h.subjects, h.lost_steps) for h in healed] == [("restart_rank", ("rank-site-1",), 0)]
    assert healed[0].began_s <= healed[0].detected_s <= healed[0].regrouped_s < healed[0].resumed_s


def test_without_a_standby_one_is_spawned_and_awaited():
    site = Site(standbys=0).running()
    site.exit(1)
    assert [a.as_rank for a in site.of(Spawn)] == [1]
    assert site.state.stage == "empty"
    site.warm_all()
    assert site.state.stage == "forming"


def test_a_standby_of_another_node_takes_the_place_where_there_is_room():
    site = Site(nodes=(("a", 2, False), ("b", 1, True))).running()
    standby = next(p for p in site.state.processes.values() if p.node == "a" and p.stage == "warm")
    site.feed(Exited(standby.id, -9, **site.at()))
    site.exit(0)
    assert [site.state.processes[name].node for name in site.state.members] == ["b", "a"]
    site = Site(world_size=3, nodes=(("a", 2, False), ("b", 1, False))).running()
    standby = next(p for p in site.state.processes.values() if p.node == "a" and p.stage == "warm")
    site.feed(Exited(standby.id, -9, **site.at()))
    site.exit(0)  # b's standby has no room there: b's place is held
    assert site.state.stage == "empty"


def test_a_broken_group_is_made_anew_three_times_then_processes_are_replaced():
    site = Site().running(3)
    for attempt in range(3):
        before = site.state.members
        for member in before:
            site.say(member, Broken(site.state.generation, 3, "reset"))
        assert site.state.members == before
        assert site.state.generation == attempt + 2
        assert {form.fresh for form in site.told(Form)} == {()}
    for member in site.state.members:
        site.say(member, Broken(site.state.generation, 3, "reset"))
    assert site.of(Kill)


def test_one_broken_member_waits_for_news_of_a_death():
    site = Site().running()
    site.say(site.state.members[0], Broken(1, 0, "closed"))
    assert site.actions == []
    site.tick(1.0)
    assert site.state.generation == 2


def test_progress_begins_the_counts_anew():
    site = Site().running(3)
    for step in range(4, 14):
        for member in site.state.members:
            site.say(member, Broken(site.state.generation, step, "reset"))
        site.join_all(step)
    assert site.state.retries <= 1
    assert site.of(Kill) == []


def test_a_node_that_failed_twice_is_replaced_by_the_spare_and_checked():
    nodes = (("a", 1, False), ("b", 1, False), ("c", 1, True))
    site = Site(nodes=nodes).running(1)
    for step in (2, 3):
        site.exit(1, -9)
        condemned = site.of(Check)
        site.join_all(step)
        site.warm_all()
    assert [c.node for c in condemned] == ["b"]
    assert [site.state.processes[name].node for name in site.state.members] == ["a", "c"]
    site.feed(Checked("b", True, **site.at()))
    assert (site.state.nodes["b"].health, site.state.nodes["b"].spare) == ("well", True)


def test_a_node_whose_check_fails_stays_out():
    site = Site(nodes=(("a", 1, False), ("b", 1, False), ("c", 1, True))).running(1)
    verdict = Suspicion(kind="ecc", rank=1, action="quarantine", confidence=0.9)
    site.feed(Diagnosed(Diagnosis(best=verdict, cause="ECC", verify="", evidence=()), 1, **site.at()))
    assert [c.node for c in site.of(Check)] == ["b"]
    site.feed(Checked("b", False, "too slow", **site.at()))
    assert site.state.nodes["b"].health == "out"
    assert [e.kind for e in site.of(Emit)] == ["alert"]


def test_a_lost_node_is_replaced_or_the_group_shrinks_and_grows_back():
    site = Site(nodes=(("a", 1, False), ("b", 1, False))).running(1)
    site.feed(NodeLost("b", **site.at()))
    assert site.state.stage == "empty"
    site.tick(3.0)
    assert [form.world_size for form in site.told(Form)] == [1]
    site.join_all(2)
    site.feed(NodeJoined("b", 1, **site.at()))
    assert [c.node for c in site.of(Check)] == ["b"]
    site.feed(Checked("b", True, **site.at()))
    site.warm_all()
    assert (site.state.stage, len(site.state.members)) == ("forming", 2)


def test_nothing_is_formed_while_the_whole_group_may_still_run_out_of_sight():
    site = Site(world_size=1, nodes=(("b", 1, False), ("a", 1, True)), lease_s=60.0).running(1)
    site.feed(NodeLost("b", **site.at()))
    site.tick(59.0)
    assert site.state.generation == 1
    site.tick(2.0)
    assert site.state.generation == 2


def test_all_processes_gone_means_all_are_fresh():
    site = Site(standbys=2).running(7)
    site.exit(1)
    site.exit(0)
    site.warm_all()
    assert {form.fresh for form in site.told(Form)} == {(0, 1)}
    healed = next(a for a in site.join_all(5) if isinstance(a, Emit) and a.kind == "healed")
    assert healed.lost_steps == 2


# ---- findings


def test_a_lasting_finding_kills_the_rank():
    site = Site().running()
    hung = site.state.members[1]
    site.feed(Found(finding(), 1, **site.at()))
    assert Kill(hung) in site.actions
    assert hung not in site.state.members


@pytest.mark.parametrize("found", [
    Found(finding(), 0, now_s=9.0), Found(finding(rank=7), 1, now_s=9.0),
    Found(finding(lasting=False), 1, now_s=9.0),
])  # fmt: skip
def test_findings_that_change_nothing(found):
    site = Site().running()
    site.feed(found)
    assert not site.of(Kill)
    assert site.state.generation == 1


def test_suspects_are_killed_only_if_most_remain():
    site = Site(world_size=4, nodes=(("a", 4, False),)).running()
    site.feed(Found(finding(rank=None, suspects=(2, 3)), 1, **site.at()))
    assert not site.of(Kill)
    assert site.state.generation == 2
    site.join_all(1)
    site.warm_all()
    site.feed(Found(finding(rank=None, suspects=(3,)), 2, **site.at()))
    assert len(site.of(Kill)) == 1


def test_a_nan_that_a_replacement_does_not_cure_is_rolled_back():
    site = Site().running(10)
    site.feed(Found(finding("nan"), 1, **site.at()))
    assert site.of(Kill)
    site.join_all(10)
    site.warm_all()
    site.feed(Found(finding("nan"), 2, **site.at()))
    assert not site.of(Kill)
    assert {(form.fresh, form.at_most_step) for form in site.told(Form)} == {((0, 1), 9)}


# ---- the user's own bugs


def failed(step, error="ValueError: no", code=1):
    return Failed(step, error, "Traceback ...", code)


def test_the_same_error_at_the_same_step_ends_the_run():
    site = Site().running(5)
    site.say(site.state.members[1], failed(5))
    assert not site.of(End)
    site.join_all(5)
    site.say(site.state.members[1], failed(5))
    assert [(e.outcome, e.exit_code, e.traceback) for e in site.of(End)] == [("failed", 1, "Traceback ...")]


def test_the_same_error_of_two_processes_ends_the_run():
    site = Site().running(5)
    site.say(site.state.members[0], failed(5))
    site.say(site.state.members[1], failed(6))
    assert "ValueError: no" in site.of(End)[0].reason


@pytest.mark.parametrize("code", [2, 3, 5, 6])
def test_exit_codes_of_user_errors_end_at_once(code):
    site = Site().running()
    assert site.exit(0, code)[-1].exit_code == code
    site = Site()
    site.feed(Exited(next(iter(site.state.processes)), code, "hint", **site.at()))
    assert site.of(End)[0].exit_code == code


def test_three_crashes_without_a_step_end_the_run():
    site = Site().running(5)
    for _ in range(3):
        site.exit(1, -11)
        site.warm_all()
        site.join_all(5)
        site.warm_all()
    assert "3 crashes in a row" in site.state.verdict.reason


def test_kills_from_outside_are_healed_up_to_the_budget():
    site = Site(restarts=6).running(5)
    for _ in range(7):
        assert site.state.verdict is None
        site.exit(1, -9)
        site.warm_all()
        site.join_all(5)
        site.warm_all()
    assert "restarted 6 times" in site.state.verdict.reason


# ---- waits are bounded


def test_who_says_nothing_while_a_group_forms_is_killed():
    site = Site().running()
    site.exit(1)
    site.warm_all()
    first, second = site.state.members
    site.say(first, Posted(2, "k", b""))
    site.tick(25.0)
    assert site.of(Kill) == [Kill(second)]


def test_a_process_that_never_gets_warm_is_replaced():
    site = Site(warm_timeout_s=10.0)
    site.tick(11.0)
    assert len(site.of(Kill)) == 2
    assert len(site.of(Spawn)) == 2


def test_a_node_that_cannot_start_processes_is_taken_out():
    site = Site(nodes=(("a", 2, False), ("b", 2, True)))
    while site.state.nodes["a"].health == "well":
        process = next(p for p in site.state.processes.values() if p.node == "a")
        site.feed(Exited(process.id, 1, "no torch", **site.at()))
    assert {p.node for p in site.state.processes.values() if p.stage == "spawned"} == {"b"}


def test_nowhere_to_run_ends():
    site = Site(nodes=(("a", 2, False),), start_timeout_s=100.0).running()
    site.feed(NodeLost("a", **site.at()))
    site.tick(101.0)
    assert site.of(End)[0].outcome == "failed"


# ---- the end


def test_rank_0_that_left_in_order_ends_the_run():
    site = Site().running(9)
    members = site.state.members
    for member in members:
        site.say(member, Leaving("done"))
    site.exit(1, 0)
    assert not site.of(End)
    site.exit(0, -11)  # what happens after its last word does not matter
    assert [(e.outcome, e.exit_code) for e in site.of(End)] == [("done", 0)]


def test_who_does_not_follow_rank_0_is_not_waited_for():
    site = Site(exit_s=30.0).running(9)
    site.say(site.state.members[0], Leaving("done"))
    site.exit(0, 0)
    site.tick(31.0)
    assert isinstance(site.actions[-1], End)
    assert site.of(Kill)


def test_leaving_heals_once_and_is_bounded():
    site = Site(leave_timeout_s=60.0).running(9)
    site.feed(LeaveAsked("stop", **site.at()))
    assert site.told(Leave) == [Leave("stop")] * 2
    site.exit(1)
    assert site.state.stage == "forming"
    site.join_all(9)
    assert site.state.leave_told == 2
    site.exit(0)
    assert site.of(End)[0].outcome == "failed"
    site = Site(leave_timeout_s=60.0).running(9)
    site.feed(LeaveAsked("stop", **site.at()))
    site.tick(61.0)
    assert site.of(End)[0].outcome == "failed"


def test_leaving_before_anything_ran_is_done():
    site = Site()
    site.feed(LeaveAsked("stop", **site.at()))
    assert site.of(End)[0].outcome == "done"


# ---- a keeper that was restarted


def restarted(site, alive=(0, 1)):
    members, generation = site.state.members, site.state.generation
    record = site.actions[0].record
    site.state = recover("site", record, site.state.policy, site.now_s)
    site.feed(NodeJoined("a", 2, **site.at()))
    for rank in alive:
        site.feed(Started(members[rank], "a", **site.at()))
        site.say(members[rank], Hello(members[rank], 1, rank, generation, 4))
        site.say(members[rank], Joined(generation, 4))
    return members


def recorded():
    site = Site().warm_all()
    saved = site.actions
    site.join_all(4)
    site.actions = saved
    return site


def test_a_restarted_keeper_changes_nothing_if_all_are_there():
    site = recorded()
    members = restarted(site)
    assert (site.state.stage, site.state.generation, site.state.members) == ("running", 1, members)
    assert site.state.boot == 2


def test_a_restarted_keeper_heals_what_died_meanwhile():
    site = recorded()
    restarted(site, alive=(0,))
    assert site.state.stage == "recovering"
    site.tick(11.0)
    site.warm_all()
    assert site.state.generation == 2
    assert {form.fresh for form in site.told(Form)} == {(1,)}
    assert all(name.startswith("a/2.") for name in site.state.members[1:])


def test_a_form_that_was_never_heard_of_is_made_anew():
    site = recorded()
    site.state = recover("site", site.actions[0].record, site.state.policy, site.now_s)
    site.feed(NodeJoined("a", 2, **site.at()))
    for name in site.state.members:
        site.feed(Started(name, "a", **site.at()))
        site.say(name, Hello(name, 1))
    assert site.state.generation == 2


@pytest.mark.parametrize(("steps", "step", "donor", "behind"), [
    ([5, 5], 5, 0, ()), ([4, 5, 5], 5, 1, (0,)), ([-1, 5], 5, 1, (0,)), ([-1, -1], -1, 0, ()),
    ([6, -1, 5], 6, 0, (1, 2)),
])  # fmt: skip
def test_the_highest_applied_step_counts(steps, step, donor, behind):
    found = agree(steps)
    assert (found.step, found.donor, found.behind) == (step, donor, behind)
