"""How much a class of faults explains, and what may be done about it without harm."""

from isthmus.faults.terms import Action, FaultClass

DEPTH: dict[FaultClass, float] = {
    "power": 5.2,
    "device_lost": 5.2,
    "host_fail": 5.0,
    "ecc": 5.1,
    "disk_fail": 5.0,
    "oom_host": 5.0,
    "oom_shm": 5.2,
    "disk_full": 5.0,
    "oom_device": 5.0,
    "gsp": 5.0,
    "link": 4.8,
    "nan": 4.8,
    "desync": 4.8,
    "sdc": 4.8,
    "ckpt_corrupt": 4.8,
    "ckpt_mismatch": 4.8,
    "version_mismatch": 4.8,
    "data_corrupt": 4.6,
    "resource": 4.6,
    "permission": 4.4,
    "storage": 4.4,
    "storage_or_host": 4.4,
    "config": 4.2,
    "device_fault": 4.2,
    "device_state": 4.2,
    "operator": 4.0,
    "loss_spike": 3.8,
    "dataloader": 3.6,
    "dataloader_hang": 3.4,
    "user_code": 3.6,
    "preempt": 3.2,
    "crash": 3.4,
    "network": 3.2,
    "partition": 3.2,
    "network_init": 3.0,
    "rendezvous": 2.8,
    "network_degraded": 2.4,
    "fail_slow": 2.4,
    "comm_error": 2.2,
    "hang": 2.2,
    "secondary": 1.0,
    "advice": 0.8,
}
"""What is deeper causes what is shallower, so that the deeper of two is the better explanation: a lost device
ends in exceptions, closed connections and a hang, none of which loses a device."""

EXPLAINS: dict[FaultClass, frozenset[FaultClass]] = {
    "oom_shm": frozenset(("disk_full", "dataloader", "crash")),
    "oom_host": frozenset(("crash", "dataloader", "preempt")),
    "disk_full": frozenset(("ckpt_corrupt", "storage", "crash", "disk_fail")),
    "device_lost": frozenset(
        ("link", "device_fault", "device_state", "gsp", "ecc", "config", "version_mismatch")
    ),
    "ecc": frozenset(("device_fault", "device_state", "crash")),
    "gsp": frozenset(("device_fault", "device_state")),
    "device_state": frozenset(("device_fault",)),
    "power": frozenset(("device_lost", "link", "host_fail")),
    "disk_fail": frozenset(("storage", "ckpt_corrupt", "permission")),
    "host_fail": frozenset(("crash", "storage")),
    "nan": frozenset(("user_code", "ckpt_corrupt")),
    "version_mismatch": frozenset(("config", "user_code", "device_state")),
    "data_corrupt": frozenset(("dataloader", "user_code")),
}
"""Of two that were both seen, the first is the reason of the second, whichever was told first."""

SILENT: frozenset[FaultClass] = frozenset(
    ("hang", "desync", "comm_error", "secondary", "rendezvous", "network_init", "network", "crash")
)
"""Classes whose culprit need not be who tells of it."""

SAFE: dict[FaultClass, tuple[Action, ...]] = {
    "config": ("fix_config", "alert_human", "wait"),
    "user_code": ("alert_human", "fix_config"),
    "ckpt_mismatch": ("alert_human", "fix_config"),
    "version_mismatch": ("fix_config", "alert_human"),
    "permission": ("alert_human", "fix_config"),
    "operator": ("alert_human", "wait", "replace_node"),
    "desync": ("alert_human", "fix_config"),
    "resource": ("fix_config", "alert_human", "restart_rank", "wait"),
    "oom_device": ("fix_config", "alert_human", "restart_rank"),
    "oom_host": ("fix_config", "alert_human", "restart_rank", "replace_node", "quarantine"),
    "oom_shm": ("fix_config", "alert_human", "restart_rank"),
    "disk_full": ("alert_human", "quarantine", "fix_config", "wait"),
    "device_lost": ("replace_node", "quarantine", "shrink", "alert_human"),
    "ecc": ("replace_node", "quarantine", "shrink", "alert_human", "wait"),
    "disk_fail": ("replace_node", "quarantine", "shrink", "alert_human"),
    "host_fail": ("replace_node", "quarantine", "shrink", "alert_human"),
    "power": ("replace_node", "quarantine", "shrink", "alert_human"),
    "ckpt_corrupt": ("rollback", "alert_human"),
    "data_corrupt": ("fix_config", "alert_human", "quarantine"),
    "sdc": ("quarantine", "rollback", "replace_node", "alert_human"),
    "nan": ("rollback", "quarantine", "alert_human", "fix_config"),
    "storage": ("wait", "retry", "alert_human", "replace_node", "restart_rank", "fix_config"),
    "link": ("replace_node", "quarantine", "wait", "retry", "alert_human"),
    "gsp": ("replace_node", "quarantine", "alert_human"),
    "network": ("retry", "wait", "replace_node", "alert_human", "fix_config", "restart_rank", "quarantine"),
    "network_init": ("retry", "wait", "fix_config", "alert_human", "replace_node"),
    "rendezvous": ("retry", "wait", "fix_config", "alert_human", "restart_rank"),
    "hang": ("restart_rank", "alert_human", "quarantine", "replace_node"),
    "crash": ("restart_rank", "quarantine", "alert_human", "replace_node"),
    "preempt": ("wait", "rollback", "shrink", "alert_human", "replace_node"),
}
"""Actions that cannot do harm in a class, the usual one first: nothing is restarted that would fail the same
way again, or on hardware that is broken. Classes that are not here allow any."""

SURE_ENOUGH = 0.3
"""Below this confidence nothing is done but to tell people."""


def safe_action(kind: FaultClass, wanted: Action | None, confidence: float) -> Action:
    """The entry's action where it is safe, else the usual one of its class."""
    allowed = SAFE.get(kind)
    action = wanted or (allowed[0] if allowed else "alert_human")
    if allowed and action not in allowed:
        action = allowed[0]
    if confidence < SURE_ENOUGH and action not in ("fix_config", "wait"):
        return "alert_human"
    return action
