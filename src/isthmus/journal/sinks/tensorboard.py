"""A journal as TensorBoard event files, one folder per site, without torch. Needs the extra `tensorboard`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isthmus.errors import InputError
from isthmus.journal import events
from isthmus.journal.events import AnyEvent
from isthmus.journal.experts import Experts, layer_figures
from isthmus.journal.reader import read

SERVER = "server"
SUFFIX = ".isthmus"
"""Of the files written here; only such are replaced."""

Scalars = dict[str, float]


def scalars(event: AnyEvent) -> tuple[str, int, Scalars] | None:
    """(folder, step, tag -> value) of an event; None for one that is no point of a curve.

    The step of a site's curves is its inner step, that of the server's the version.
    """
    match event:
        case events.StepDone():
            speed = event.tokens / event.step_s if event.step_s > 0 else 0.0
            return event.site, event.step, {
                "train/loss": event.loss, "train/lr": event.lr, "train/grad_norm": event.grad_norm,
                "train/tokens_per_s": speed, "train/wait_s": event.wait_s,
            }  # fmt: skip
        case events.EvalDone():
            return event.site, event.step, {"eval/loss": event.loss}
        case events.ExpertsCounted():
            return event.site, event.step, _of_experts(event)
        case events.Healed():
            return event.site, event.step, _of_heal(event)
        case events.LinkSample():
            return event.site, int(event.wall_s), {
                "link/bytes_up": event.bytes_up, "link/bytes_down": event.bytes_down,
                "link/rtt_s": event.rtt_s,
            }  # fmt: skip
        case events.VersionPublished():
            return SERVER, event.version, {
                "merge/tokens": event.tokens, "merge/sites": len(event.sites), "merge/wait_s": event.wait_s,
            }  # fmt: skip
        case _:
            return None


def _of_heal(event: events.Healed) -> Scalars:
    """Seconds since the fault began, and the steps that were lost."""
    told = {
        "detected": event.detected_s, "diagnosed": event.diagnosed_s, "regrouped": event.regrouped_s,
        "resumed": event.resumed_s,
    }  # fmt: skip
    found = {f"heal/{name}_after_s": max(0.0, at_s - event.began_s) for name, at_s in told.items() if at_s}
    return {**found, "heal/lost_steps": event.lost_steps}


def _of_experts(event: events.ExpertsCounted) -> Scalars:
    found: Scalars = {}
    for of in layer_figures([Experts().add(event, 0.0)]):
        found |= {
            f"expert_max_load/layer{of.layer}": of.max_load,
            f"expert_drop_rate/layer{of.layer}": of.drop_rate,
            f"expert_entropy/layer{of.layer}": of.entropy,
            f"expert_coef/layer{of.layer}": of.coef,
        }
        if event.similarity:
            found[f"expert_similarity/layer{of.layer}"] = of.similarity
    return found


def write(run_dir: Path, logdir: Path) -> int:
    """Write all curves of the journal as it is now, in place of what was written before; returns the points.

    Raises:
        NotFoundError: the run has no journal.
        InputError: tensorboard is not installed.
    """
    told = read(run_dir)
    writers: dict[str, Any] = {}
    points = 0
    try:
        for folder, event_proto in _protos(told):
            if folder not in writers:
                writers[folder] = _open(logdir / folder)
            writers[folder].add_event(event_proto)
            points += 1
    finally:
        for writer in writers.values():
            writer.close()
    return points


def _protos(told: Iterator[AnyEvent]) -> Iterator[tuple[str, Any]]:
    event_pb2, summary_pb2 = _protobufs()
    for event in told:
        found = scalars(event)
        if found is None:
            continue
        folder, step, values = found
        summary = summary_pb2.Summary(
            value=[summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        yield folder, event_pb2.Event(wall_time=event.wall_s, step=step, summary=summary)


def _protobufs() -> tuple[Any, Any]:
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2
    except ImportError as error:
        raise InputError(
            "tensorboard is not installed",
            where="isthmus tensorboard",
            hint="pip install 'isthmus[tensorboard]'",
        ) from error
    return event_pb2, summary_pb2


def _open(folder: Path) -> Any:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for old in folder.glob(f"*{SUFFIX}"):
        old.unlink()
    return EventFileWriter(str(folder), filename_suffix=SUFFIX)
