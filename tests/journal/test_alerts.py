"""What alerts say about faults, and when they are the same."""

from typing import get_args

import pytest
from msgspec.structs import replace

from isthmus.faults.terms import Action
from isthmus.journal import events as e
from isthmus.journal.alerts import WHAT_NEXT, Alert, add_alert, alert_of

DIAGNOSED = e.Diagnosed(
    wall_s=5.0, source="agent/jinan", subject="rank-jinan-2", fault_class="ecc", entry="XID-48",
    action="replace_node", confidence=0.97, cause="a double bit error of the memory",
    verify="dcgmi diag -r 3 passes", evidence=["kern.log:7: NVRM: Xid 48", "page of rank 2"],
    victims=[f"rank-jinan-{i}" for i in range(3, 9)],
)  # fmt: skip
HEALED = e.Healed(
    wall_s=11.0, source="agent/jinan", site="jinan", subjects=["rank-jinan-2"], kind="restart_rank",
    generation=4, step=120, lost_steps=2, began_s=10.0, detected_s=10.1, diagnosed_s=10.3, regrouped_s=10.6,
    resumed_s=10.84,
)  # fmt: skip


def raised(event: e.AnyEvent) -> Alert:
    alert = alert_of(event)
    assert alert
    return alert


@pytest.mark.parametrize("action", get_args(Action))
def test_every_action_says_what_is_done_and_what_is_left_to_do(action: str):
    alert = raised(replace(DIAGNOSED, action=action))
    assert WHAT_NEXT[action] in alert.text
    assert "You:" in alert.text
    levels = {"alert_human": "critical", "fix_config": "critical", "retry": "info", "wait": "info"}
    assert alert.level == levels.get(action, "info" if action == "restart_rank" else "warning")


def test_nothing_else_is_said():
    assert set(WHAT_NEXT) == set(get_args(Action))
    assert "Action: dance." in raised(replace(DIAGNOSED, action="dance")).text


def test_a_diagnosis_can_be_understood_at_night(snapshot):
    assert raised(DIAGNOSED).text == snapshot


def test_a_heal_and_an_agents_fault_too(snapshot):
    fault = e.Fault(
        wall_s=10.1, source="agent/jinan", subject="rank-jinan-2", kind="rank_died", detail="exit code -9",
        began_s=10.0,
    )  # fmt: skip
    assert [raised(HEALED).text, raised(replace(HEALED, subjects=[], lost_steps=0)).text] == snapshot
    assert raised(fault).text == snapshot
    assert raised(replace(fault, source="launcher")).text == "exit code -9"


def test_the_same_diagnosis_is_one_alert_and_another_one_is_not():
    alerts: tuple[Alert, ...] = ()
    for event in (DIAGNOSED, replace(DIAGNOSED, wall_s=6.0), replace(DIAGNOSED, action="alert_human")):
        alerts = add_alert(alerts, raised(event))
    assert [(alert.times, alert.level) for alert in alerts] == [(2, "warning"), (1, "critical")]
