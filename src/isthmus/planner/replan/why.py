"""What an option is, in words."""

from collections.abc import Mapping

from isthmus.planner.replan.answers import Answer
from isthmus.planner.replan.harm import locate
from isthmus.planner.replan.situation import Situation


def why_nothing(at: Situation, alone: Mapping[str, Answer]) -> str:
    """What becomes of the running layout."""
    why = ["the running layout on the fleet as it is now"]
    stand = [head for head, answer in alone.items() if answer.stands_s >= at.repair_s or head in at.gone]
    spares = [head for head, answer in alone.items() if answer.move.num_bytes]
    why += [f"{', '.join(stand)} stands until it is repaired"] * bool(stand)
    why += [f"idle nodes replace the lost ones of {', '.join(spares)}"] * bool(spares)
    return "; ".join([*why, *_assumed_stages(at)])


def _assumed_stages(at: Situation) -> list[str]:
    """Where no event names the stage of its nodes, the one that is taken."""
    told: list[str] = []
    for head, damages in at.damages.items():
        for damage in damages:
            hit = locate(at.job, at.before[head], damage)
            if hit is not None and damage.stage < 0 and at.before[head][hit.band].layout.pp > 1:
                told.append(f"{damage.chip} of {damage.site}: stage {hit.first} is taken to be hit")
    return told


def why_not(name: str) -> str:
    """An option with the layout kept."""
    return {
        "use spares": "not enough idle nodes of that kind, or nodes are lost: then doing nothing uses them",
        "shift the batch": "no node is slow, or memory lacks",
        "drop replicas": "no whole replicas are left, or memory lacks",
        "regroup replicas": "no whole replicas would be gained or lost, or memory lacks",
        "cut the layers again": "no pipeline whose layers could be cut otherwise",
    }[name]
