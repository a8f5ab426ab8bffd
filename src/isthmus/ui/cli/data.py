"""`isthmus data`: tokenise what a run reads, and look at it."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from isthmus.data.dataset import Dataset, open_prepared
from isthmus.data.dataset import prepare as prepare_data
from isthmus.data.prepare import Progress
from isthmus.spec.load import load_run
from isthmus.ui import tables
from isthmus.units import Bytes

app = App(name="data", help="Prepare and inspect training data.")

Overrides = Annotated[list[str], Parameter(name="--set", allow_leading_hyphen=True)]


@app.command
def prepare(run: Path | None = None, *, set_: Overrides | None = None, json_: bool = False) -> None:
    """Train the tokenizer and write the token shards a run needs, or go on where that stopped.

    Parameters
    ----------
    run
        The run.yaml; without it all defaults: the standard library's own text.
    set_
        Override one field, such as data.seq_len=512; may be given again.
    json_
        Print one JSON object.
    """
    spec = load_run(run, set_ or [])
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn()
    tasks: dict[tuple[str, str], TaskID] = {}
    with Bars(*columns, console=tables.console(stderr=True), disable=not sys.stderr.isatty()) as bars:

        def show_progress(progress: Progress) -> None:
            key = progress.stage, progress.source
            if key not in tasks:
                tasks[key] = bars.add_task(f"{progress.stage} {progress.source}", total=None)
            bars.update(tasks[key], completed=progress.done_bytes, total=progress.total_bytes or None)

        dataset = prepare_data(spec.data, spec.model.vocab_size, show_progress)
    _print(dataset, json_)


@app.command
def show(
    run: Path | None = None,
    *,
    set_: Overrides | None = None,
    sample: int | None = None,
    verify: bool = False,
    json_: bool = False,
) -> None:
    """Print what prepared data holds: documents and tokens of each source, and the fingerprint sites compare.

    Parameters
    ----------
    run
        The run.yaml; without it all defaults.
    set_
        Override one field; may be given again.
    sample
        Print the text at this index of the global stream instead.
    verify
        Read every shard against its checksums first.
    json_
        Print one JSON object.
    """
    spec = load_run(run, set_ or [])
    dataset = open_prepared(spec.data, spec.model.vocab_size)
    if verify:
        dataset.verify()
    if sample is not None:
        _print_sample(dataset, sample, json_)
    else:
        _print(dataset, json_)


def _print_sample(dataset: Dataset, index: int, as_json: bool) -> None:
    tokens, _ = next(dataset.stream(index, index + 1))
    source, number = (int(values[0]) for values in dataset.sample_indices(index, index + 1))
    text = dataset.decode(tokens[0])
    if as_json:
        fields = {
            "index": index,
            "source": dataset.spec.sources[source].path,
            "sample": number,
            "tokens": tokens[0].tolist(),
            "text": text,
        }
        print(msgspec.json.encode(fields).decode())
    else:
        print(text)


def _print(dataset: Dataset, as_json: bool) -> None:
    sources = dataset.summary()
    if as_json:
        fields = {
            "fingerprint": dataset.fingerprint,
            "tokenizer": dataset.tokenizer.hash,
            "vocab_size": dataset.tokenizer.vocab_size,
            "seq_len": dataset.seq_len,
            "samples": dataset.num_samples,
            "sources": sources,
        }
        print(msgspec.json.encode(fields).decode())
        return
    table = Table("source", box=None)
    for name in ("documents", "text", "tokens", "held out", "samples", "files"):
        table.add_column(name, justify="right")
    for source in sources:
        table.add_row(
            source.name,
            f"{source.documents:,}",
            str(Bytes(source.text_bytes)),
            f"{source.train_tokens:,}",
            f"{source.held_tokens:,}",
            f"{source.samples:,}",
            str(len(source.files)),
        )
    console = tables.console()
    console.print(table)
    console.print(f"tokenizer {dataset.tokenizer.hash}, {dataset.tokenizer.vocab_size} tokens")
    console.print(f"fingerprint {dataset.fingerprint}")
