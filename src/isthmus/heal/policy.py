"""What the keeper does when: every bound it knows, with its reason."""

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    standbys: int = 1
    """Warm processes a node keeps: one death costs no start of a process, a second one meanwhile does."""
    # the ladder
    retries: int = 3
    """New groups in a row of the same processes: a blip of the network is over by then."""
    settle_s: float = 0.3
    """After a group broke and before it is made anew, a death elsewhere may be on its way to the keeper."""
    node_failures: int = 2
    """Of one node within `window_s`: once is chance, twice is the node."""
    restarts: int = 20
    """Of one place within `window_s` without a step forward."""
    barren: int = 3
    """Crashes of the program in a row without a step forward: it will not go by itself."""
    generations: int = 40
    """In a row without a step forward, whatever the reasons."""
    window_s: float = 3600.0
    cure_steps: int = 1000
    """A numeric fault that comes again within so many steps was not cured by a replacement."""
    strikes: int = 2
    """Failed checks or quarantines after which a node stays out."""
    spawn_failures: int = 3
    """Processes in a row that end before they are warm: their node cannot start any."""
    # waits
    start_timeout_s: float = 300.0
    """The first group waits this long for nodes that were promised."""
    shrink_wait_s: float = 2.0
    """A place no node can take: a node may be about to join."""
    warm_timeout_s: float = 180.0
    """From spawn to Warm: imports, model and a first optimizer step on a busy node."""
    form_timeout_s: float = 20.0
    """From Form to the last Joined; three times the longest so far, doubled after each that did not."""
    form_timeout_max_s: float = 600.0
    recover_s: float = 10.0
    """A restarted keeper waits this long for its members to say Hello and Joined again."""
    lease_s: float = 60.0
    """An agent that has not reached its keeper for this long has killed its ranks: only after it may a group
    be made without any member of the last one."""
    check_timeout_s: float = 900.0
    recheck_s: float = 300.0
    leave_timeout_s: float = 120.0
    """From Leave to the last exit; the last checkpoint is written within it."""
    leave_regroups: int = 1
    exit_s: float = 30.0
    """After rank 0 left in order, for the others."""
    # bounds of what is kept
    posted_per_member: int = 64
    errors_kept: int = 32
