"""`moe.train_step`: tokens/s of a small model's training step, over those of transformers."""

from statistics import median

from isthmus_bench.document import Result, package_version
from isthmus_bench.moe.contender import Contender
from isthmus_bench.moe.race import Effort, faster, race, where
from isthmus_bench.moe.steps import BATCH, HF_SETTINGS, SEQ_LEN


def run(effort: Effort) -> list[Result]:
    return [train_step(precision, effort) for precision in HF_SETTINGS]


def train_step(precision: str, effort: Effort) -> Result:
    ours = f"isthmus:{precision}"
    entered = [Contender(ours, ["step", ours, "--keep-memory"])]
    entered += [Contender(name, ["step", name]) for name in (f"hf:{s}" for s in HF_SETTINGS[precision])]
    found = race(entered, effort)
    factors = {name: faster(found.turns[ours], turns) for name, turns in found.turns.items() if name != ours}
    rates = {
        name: BATCH * SEQ_LEN / median(turn["s"] for turn in turns) for name, turns in found.turns.items()
    }
    library = f"transformers {package_version('transformers')} Mixtral"
    peers = {f"{library} {name[3:]}": rates[name] / rates[ours] for name in factors}
    note = f"over the fastest of them; isthmus: {rates[ours]:.0f} tokens/s; {where()}"
    return Result(
        f"moe.train_step.{precision}",
        min(factors.values()),
        "ratio",
        peers,
        "; ".join([note, *found.missing]),
    )
