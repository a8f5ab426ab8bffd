"""The words for faults: their classes, what is done about them, how far they reach."""

from typing import Literal

FaultClass = Literal[
    "advice", "ckpt_corrupt", "ckpt_mismatch", "comm_error", "config", "crash", "data_corrupt",
    "dataloader", "dataloader_hang", "desync", "device_fault", "device_lost", "device_state",
    "disk_fail", "disk_full", "ecc", "fail_slow", "gsp", "hang", "host_fail", "link", "loss_spike",
    "nan", "network", "network_degraded", "network_init", "oom_device", "oom_host", "oom_shm",
    "operator", "partition", "permission", "power", "preempt", "rendezvous", "resource", "sdc",
    "secondary", "storage", "storage_or_host", "user_code", "version_mismatch",
]  # fmt: skip

Action = Literal[
    "retry", "restart_rank", "replace_node", "rollback", "shrink", "quarantine", "fix_config", "wait",
    "alert_human",
]  # fmt: skip
"""retry: the same again, nothing is restarted. restart_rank: a new process for the rank, same node.
replace_node: a spare takes the node's place. rollback: back to a checkpoint before the fault. shrink: go on
without it. quarantine: take the part out and test it before it returns. fix_config: a person changes the
program, its settings or its data. wait: it passes by itself. alert_human: nothing the system may do alone."""

Blast = Literal["rank", "node", "group", "site", "job"]
"""What stops with it: the rank, all ranks of its node, its process group, its site, everything."""
