"""`isthmus diagnose`."""

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from isthmus.faults.catalogue.load import load_catalogue
from isthmus.faults.diagnose.run import diagnose as diagnose_paths
from isthmus.ui import diagnosed, tables, text


def diagnose(
    paths: Annotated[list[Path], Parameter(name="paths", negative="")],
    /,
    *,
    catalogue: Path | None = None,
    json_: bool = False,
) -> None:
    """Name the fault that ended a run, the rank it came from, and what to do about it.

    Reads logs of any framework, kernel logs, Flight Recorder dumps and folders of isthmus runs, as
    docs/diagnose.md lists them. Large inputs are shared out over the cores.

    Parameters
    ----------
    paths
        Log files, or folders of them; those of all ranks tell more than one.
    catalogue
        A folder with YAML files of further faults.
    json_
        Print one JSON object; `class` is null where no known fault was found.
    """
    entries = load_catalogue(catalogue).entries
    examined = diagnose_paths(paths, entries, tell=_tell)
    if json_:
        print(json.dumps(diagnosed.as_json(examined)))
    else:
        tables.console().print(diagnosed.show(examined))


def _tell(done: int, total: int) -> None:
    print(f"read {text.size(done)} of {text.size(total)}", file=sys.stderr, flush=True)
