"""Whatever comes, in whatever order: no exception, bounded state, numbers that rise."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.faults.diagnosis import Diagnosis, Suspicion
from isthmus.faults.finding import Finding
from isthmus.heal.actions import End, Record, Remember, Tell
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
from isthmus.heal.messages import Broken, Failed, Form, Hello, Joined, Leaving, Posted, Warm
from isthmus.heal.policy import Policy
from isthmus.heal.state import initial, recover

NODES = ("a", "b", "c")
WORDS = st.sampled_from(["", "x"])
MESSAGES = st.sampled_from(
    ["hello", "warm", "warm", "posted", "broken", "joined", "joined", "joined", "failed", "leaving"]
)
KINDS = st.sampled_from(
    ["say"] * 8 + ["exit", "exit", "join", "join", "lost", "started", "found", "diagnosed", "checked", "tick",
                   "tick", "leave", "restart"]
)  # fmt: skip
MOVES = st.lists(
    st.tuples(KINDS, st.integers(0, 9), MESSAGES, st.integers(-1, 4), st.sampled_from([0.0, 0.1, 5.0, 70.0])),
    max_size=120,
)


def message(kind, process, generation, step):
    return {
        "hello": Hello(process, 1, step, generation, step),
        "warm": Warm(),
        "posted": Posted(generation, "k", b"v"),
        "broken": Broken(generation, step, "closed"),
        "joined": Joined(generation, step),
        "failed": Failed(step, f"E{step}", "T", 1),
        "leaving": Leaving("done"),
    }[kind]


def event(state, move, now_s):
    kind, which, word, number, _ = move
    known = [*state.members, *state.processes, "a/0.9", "nobody"]
    process, node = known[which % len(known)], NODES[which % 3]
    generation = state.generation - (number < 0)
    suspect = Suspicion(
        kind=None, rank=number, action=("retry", "rollback", "quarantine")[which % 3], confidence=1.0
    )
    finding = Finding(
        kind=("nan", "hang", "sdc")[which % 3], rank=None if number < 0 else number, what="w",
        began_s=0.0, seen_s=0.0, suspects=(0, 1), lasting=which < 8,
    )  # fmt: skip
    return {
        "say": Said(process, message(word, process, generation, number), now_s=now_s),
        "exit": Exited(process, (0, 1, -9, None, -11)[which % 5], now_s=now_s),
        "join": NodeJoined(node, 1 + which % 2, which > 7, now_s=now_s),
        "lost": NodeLost(node, now_s=now_s),
        "started": Started(process, node, now_s=now_s),
        "found": Found(finding, generation, now_s=now_s),
        "diagnosed": Diagnosed(
            Diagnosis(best=suspect, cause="c", verify="", evidence=()), generation, now_s=now_s
        ),
        "checked": Checked(node, which > 2, now_s=now_s),
        "leave": LeaveAsked("stop", now_s=now_s),
    }.get(kind, Tick(number, now_s=now_s))


def size(value):
    return len(msgspec.json.encode(msgspec.to_builtins(value)))


@settings(max_examples=300, deadline=None)
@given(MOVES, st.integers(1, 3))
def test_any_order_of_events(moves, world_size):
    policy = Policy(recheck_s=5.0, start_timeout_s=100.0)
    state, now_s, told, disk = initial("site", world_size, policy), 0.0, {}, Record(world_size=world_size)
    for move in moves:
        now_s += move[4]
        if move[0] == "restart":
            state = recover(
                "site", msgspec.msgpack.decode(msgspec.msgpack.encode(disk), type=Record), policy, now_s
            )
        before = state
        happened = event(state, move, now_s)
        state, actions = decide(state, happened)
        assert decide(before, happened) == (state, actions)
        for action in actions:
            if isinstance(action, Remember):
                assert action.generation >= disk.generation
                disk = action.record
            if isinstance(action, Tell) and isinstance(action.message, Form):
                form = action.message
                assert disk.generation >= form.generation
                assert told.setdefault((form.generation, form.rank), action.process) == action.process
        assert not any(isinstance(action, End) for action in actions[:-1])
        assert len(state.processes) <= 40
        assert size(state) < 60_000
        assert state.outbox == ()
        if state.ended:
            assert decide(state, happened)[1] == []
