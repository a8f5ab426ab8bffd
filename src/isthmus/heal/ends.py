"""Rules for the end of a run: done, asked for, or no sense in going on."""

from msgspec.structs import replace

from isthmus.heal.actions import End, Kill
from isthmus.heal.state import KeeperState
from isthmus.heal.trouble import end, live, saved, say


def close(state: KeeperState) -> KeeperState | None:
    """A verdict: everything ends."""
    if state.verdict is None:
        return None
    kills = [Kill(process.id) for process in state.processes.values() if process.stage != "doomed"]
    return replace(say(state, *kills, state.verdict), ended=True, processes={}, unsure={})


def finish(state: KeeperState) -> KeeperState | None:
    """Rank 0 left in order, so the last save is sound. The others have a while to follow."""
    if not saved(state):
        return None
    here = [name for name in state.members if name in state.processes]
    if here and state.now_s < state.left_s + state.policy.exit_s:
        return None
    return replace(state, verdict=End("done", state.leaving or "finished", 0))


def never_began(state: KeeperState) -> KeeperState | None:
    if not state.leaving or state.generation > 0:
        return None
    return replace(state, verdict=End("done", state.leaving, 0))


def leave_late(state: KeeperState) -> KeeperState | None:
    if not state.leaving or state.now_s < state.leave_s + state.policy.leave_timeout_s:
        return None
    return end(state, f"the site did not end in order within {state.policy.leave_timeout_s:.0f} s")


def nobody(state: KeeperState) -> KeeperState | None:
    """Nowhere to run, for longer than a node needs to come back."""
    patience_s = state.policy.start_timeout_s
    if state.stage != "empty" or live(state) or any(state.homes) or state.now_s < state.since_s + patience_s:
        return None
    return end(state, f"no node can hold a rank for {patience_s:.0f} s")


def stalled(state: KeeperState) -> KeeperState | None:
    if state.opened <= state.policy.generations:
        return None
    return end(state, f"no step forward in {state.opened} generations")
