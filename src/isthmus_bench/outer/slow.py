"""outer.slow_site_wait: how long a fast site waits for one that is three times slower."""

from isthmus_bench.document import Result
from isthmus_bench.netns import can_use_namespaces
from isthmus_bench.outer import measure, setup, torchft_peer
from isthmus_bench.outer.fleet import Fleet, sites
from isthmus_bench.outer.torchft_run import TorchftPair

FAST, SLOW = sites(2)
CPUS = {FAST: 0.9, SLOW: 0.3}
INNER_STEPS = 24
_SKIP_STEPS = 30
"""Of the slow site: its speed has to be known first."""


def run(quick: bool) -> list[Result]:
    """About a minute for each of the two arms."""
    duration_s = 20.0 if quick else 60.0
    with Fleet(setup.spec(inner_steps=INNER_STEPS), CPUS) as fleet:
        events = fleet.train_on(duration_s)
    span = measure.common_span(events, [FAST, SLOW], _SKIP_STEPS)
    fast, slow = (measure.step_rate(events, site, span) for site in (FAST, SLOW))
    note = (
        f"time waited / time of all steps, over {span.length_s:.0f} s; {CPUS[FAST]:g} and {CPUS[SLOW]:g} "
        f"cores, H = {INNER_STEPS} of the fast site; tokens/s {fast:.0f} and {slow:.0f}"
    )
    peers: dict[str, float] = {}
    peer = torchft_peer.find()
    if peer and can_use_namespaces():
        peers = _torchft(peer, duration_s)
        note += "; torchft: time in its hooks"
    elif peer is None:
        note += f"; {torchft_peer.missing_note()}"
    return [Result("outer.slow_site_wait", measure.wait_share(events, FAST, span), "ratio", peers, note)]


def _torchft(peer: torchft_peer.Torchft, duration_s: float) -> dict[str, float]:
    with TorchftPair(setup.spec(inner_steps=INNER_STEPS), CPUS, peer=peer) as pair:
        events = [event for event in pair.train_on(duration_s) if event.wall_s > pair.bound_s]
    span = measure.common_span(events, [FAST, SLOW], 1)
    return {f"{peer.name} (fp32, H = {INNER_STEPS})": measure.wait_share(events, FAST, span)}
