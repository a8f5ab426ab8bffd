"""`isthmus import`: a Hugging Face model becomes a folder to train from, generate from and export."""

import sys
from pathlib import Path

import msgspec

from isthmus.spec.count import count_params
from isthmus.spec.dump import as_yaml
from isthmus.ui.bars import byte_bar
from isthmus.ui.start import run_from
from isthmus.units import Bytes, Count
from isthmus.weights.hf.read import import_model


def import_(path: Path, out: Path, *, json_: bool = False) -> None:
    """Take in a Hugging Face model: Llama, Qwen2, Qwen3, Mixtral, Qwen3-MoE, OLMoE or Skywork-MoE.

    Prints the part of a run.yaml that trains on from it. Needs the memory of one tensor.

    Parameters
    ----------
    path
        The model's folder, with config.json and safetensors.
    out
        New folder to write.
    json_
        Print one JSON object instead.
    """
    with byte_bar("import") as told:
        done = import_model(path, out, told)
    card = done.card
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    if json_:
        facts = {
            "folder": str(out),
            "family": card.family,
            "num_params": count_params(card.model),
            "bytes": done.num_bytes,
            "eos_id": card.eos_id if card.eos_id >= 0 else None,
            "notes": done.notes,
            "run": run_from(card, out),
        }
        print(msgspec.json.encode(facts).decode())
        return
    size = f"{Count(count_params(card.model))} parameters, {Bytes(done.num_bytes)}"
    print(f"took in a model of the family {card.family}, {size}, to {out}", file=sys.stderr)
    print(as_yaml(run_from(card, out)), end="")
