"""`decide(state, event) -> (state, actions)`: the keeper, pure. Its agent's loop is

state, actions = decide(state, event)
... carry them out in order; feed back what comes of them as events
"""

from msgspec.structs import replace

from isthmus.heal.actions import AnyAction
from isthmus.heal.apply import apply
from isthmus.heal.events import AnyEvent
from isthmus.heal.rules import plan
from isthmus.heal.state import KeeperState

MOVES = 10_000
"""More rules in a row than any event can set off: a rule that undoes another's work is our bug."""


def decide(state: KeeperState, event: AnyEvent) -> tuple[KeeperState, list[AnyAction]]:
    state = apply(state, event)
    for _ in range(MOVES):
        if state.ended or (after := plan(state)) is None:
            break
        state = after
    else:
        raise AssertionError(f"no end to what {type(event).__name__} sets off")
    return replace(state, outbox=()), list(state.outbox)
