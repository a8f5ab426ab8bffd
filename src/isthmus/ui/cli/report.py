"""`isthmus report`."""

from pathlib import Path

import msgspec

from isthmus.errors import StorageError
from isthmus.journal.figures import figures
from isthmus.journal.fold import fold
from isthmus.journal.reader import read

DOCUMENTS = ("run.yaml", "fleet.yaml", "plan.json")


def report(run: Path, *, out: Path | None = None, json_: bool = False) -> None:
    """Write a run's report as one self-contained HTML page.

    Loss per site, tokens/s, bytes and waiting per link, the timeline of faults, and in one table what each
    site did, what crossed the link, and the equivalent compute. A run under way is reported as far as it got.

    Parameters
    ----------
    run
        The run's folder.
    out
        Where to write the page; report.html in the run's folder if not given.
    json_
        Print the report's figures as one JSON object, and write a page only if --out is given.
    """
    view = fold(read(run))
    if json_:
        print(msgspec.json.encode(figures(view)).decode())
    if json_ and out is None:
        return
    from isthmus.ui.report.page import render

    page = out or run / "report.html"
    try:
        page.write_text(render(view, _documents(run)))
    except OSError as error:
        raise StorageError(
            f"cannot write the report: {error.strerror}",
            where=str(page),
            hint="name another place with --out",
        ) from error
    if not json_:
        print(page)


def _documents(run: Path) -> dict[str, str]:
    return {name: (run / name).read_text() for name in DOCUMENTS if (run / name).is_file()}
