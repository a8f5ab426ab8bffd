"""The part of a run.yaml that starts from a model folder."""

from pathlib import Path
from typing import Any

from isthmus.spec.dump import changed
from isthmus.spec.run import DataSpec
from isthmus.weights.folder import TOKENIZER, Card


def run_from(card: Card, folder: Path) -> dict[str, Any]:
    """Its model, the weights to start from, the tokenizer where there is one."""
    folder = folder.absolute()
    fields: dict[str, Any] = {"model": changed(card.model), "train": {"init_from": str(folder)}}
    data: dict[str, Any] = {}
    if card.eos_id >= 0:
        data["tokenizer"] = str(folder / TOKENIZER)
    if card.model.max_seq_len < DataSpec().seq_len:
        data["seq_len"] = card.model.max_seq_len
    return fields | {"data": data} if data else fields
