"""`isthmus tensorboard`."""

from pathlib import Path

from isthmus.journal.sinks.tensorboard import write


def tensorboard(run: Path, *, logdir: Path | None = None) -> None:
    """Write a run's curves as TensorBoard event files, one folder per site, and print where.

    Parameters
    ----------
    run
        The run's folder.
    logdir
        Where to write them; `tensorboard` in the run's folder if not given.
    """
    folder = logdir or run / "tensorboard"
    write(run, folder)
    print(folder)
