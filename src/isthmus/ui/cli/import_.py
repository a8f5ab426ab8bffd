"""`isthmus import`: a Hugging Face model becomes a folder to train from, generate from and export."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from isthmus.spec.count import count_params
from isthmus.spec.dump import as_yaml, changed
from isthmus.spec.run import DataSpec
from isthmus.ui.bars import byte_bar
from isthmus.units import Bytes, Count
from isthmus.weights.folder import TOKENIZER
from isthmus.weights.hf.read import Imported, import_model


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
            "run": _run(done, out),
        }
        print(msgspec.json.encode(facts).decode())
        return
    size = f"{Count(count_params(card.model))} parameters, {Bytes(done.num_bytes)}"
    print(f"took in a model of the family {card.family}, {size}, to {out}", file=sys.stderr)
    print(as_yaml(_run(done, out)), end="")


def _run(done: Imported, out: Path) -> dict[str, Any]:
    """The fields of run.yaml that start from the model."""
    folder = out.absolute()
    fields: dict[str, Any] = {"model": changed(done.card.model), "train": {"init_from": str(folder)}}
    data: dict[str, Any] = {}
    if done.card.eos_id >= 0:
        data["tokenizer"] = str(folder / TOKENIZER)
    if done.card.model.max_seq_len < DataSpec().seq_len:
        data["seq_len"] = done.card.model.max_seq_len
    return fields | {"data": data} if data else fields
