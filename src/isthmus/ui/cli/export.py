"""`isthmus export`: a model of ours as a folder that transformers loads."""

import sys
from pathlib import Path

import msgspec

from isthmus.rundir import RunDir
from isthmus.train.export import open_newest
from isthmus.ui.bars import byte_bar
from isthmus.units import Bytes
from isthmus.weights.folder import is_model
from isthmus.weights.hf.write import Dtype, export_model


def export(
    source: Path, out: Path, *, family: str = "", dtype: Dtype = "stored", json_: bool = False
) -> None:
    """Write a model for Hugging Face transformers: config.json, safetensors and the tokenizer.

    Takes a run's finished model, or its newest checkpoint while the run is still going on.

    Parameters
    ----------
    source
        A run's folder, or a model folder such as `isthmus import` writes.
    out
        New folder to write.
    family
        llama, qwen2, qwen3, mixtral, qwen3-moe, olmoe or skywork-moe; without it the one that the model came
        from, or the first that can hold it.
    dtype
        Number format of the weights: as they are stored, or bf16, or fp32.
    json_
        Print one JSON object.
    """
    with byte_bar("check") as told:
        opened = open_newest(RunDir(source) if is_model(source) else RunDir.existing(source), told)
    with byte_bar("export") as told:
        done = export_model(opened, out, family=family, dtype=dtype, told=told)
    if json_:
        facts = {
            "folder": str(out),
            "family": done.family,
            "bytes": done.num_bytes,
            "files": done.files,
            "weights": str(opened.path),
            "trained_tokens": opened.card.tokens,
        }
        print(msgspec.json.encode(facts).decode())
        return
    what = f"a model of the family {done.family}, {Bytes(done.num_bytes)}, to {out}"
    print(f"wrote {what}", file=sys.stderr)
