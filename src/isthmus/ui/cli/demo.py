"""`isthmus demo`: what `make demo` runs."""

import shutil
import sys
from pathlib import Path

from isthmus.spec.load import load_fleet, load_run
from isthmus.ui import tables
from isthmus.ui.cli.report import report

EXAMPLE = Path(__file__).parent.parent / "demo"


def demo(run_dir: Path = Path("demo-run")) -> None:
    """Train a small Mixture-of-Experts model over two sites of this machine.

    The sites are process groups of their own, joined by a parameter server over TLS and an emulated line of
    100 Mbit/s and 30 ms. Takes a minute or two; ends with a table and a report.

    Parameters
    ----------
    run_dir
        Where the run lives; an earlier demo there is replaced.
    """
    from isthmus.ui import runner

    if (run_dir / "run.yaml").exists():
        shutil.rmtree(run_dir)
    spec, fleet = load_run(EXAMPLE / "run.yaml"), load_fleet(EXAMPLE / "fleet.yaml")
    view = runner.run(run_dir, runner.plan_work(spec, fleet))
    tables.console().print(tables.summary(view))
    report(run_dir)
    print(f'next: isthmus generate {run_dir} "def "', file=sys.stderr)
