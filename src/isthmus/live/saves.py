"""Checkpoints for the case that no rank is left: written by rank 0, beside training, never half."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from isthmus.errors import CorruptError
from isthmus.journal.store import DiskStore
from isthmus.live.state import About, Carried, as_array
from isthmus.spec.model import ModelSpec
from isthmus.train.checkpoint import CheckpointWriter, Facts, Saved, drop_after, load_newest

KEPT = 2
WAIT_S = 600.0
"""For a disk that is slow, at the end."""


class Story(msgspec.Struct, frozen=True):
    """Of a checkpoint, beside its tensors."""

    optimizers: list[About]
    extra: dict[str, Any]


class Saves:
    """Owns the writer of a folder.

    Args:
        every: steps from one save to the next; 0: only at the end.
    """

    def __init__(self, folder: Path, every: int):
        self._folder, self._every = folder, every
        self._writer: CheckpointWriter | None = None
        self._saved = -1

    def resume(self, carried: Carried, at_most_step: int = -1) -> tuple[int, dict[str, Any]]:
        """(step, extra) of the newest sound checkpoint, which `carried` takes; (0, {}) if there is none."""
        store = DiskStore()
        store.make_folder(self._folder)
        if at_most_step >= 0:
            drop_after(store, self._folder, at_most_step)
        found, skipped = load_newest(store, self._folder)
        for skip in skipped:
            print(f"isthmus: checkpoint {skip.path} is passed over: {skip.reason}", file=sys.stderr)
        if found is None:
            return 0, {}
        try:
            story = msgspec.json.decode(str(found.facts.feed["story"]), type=Story)
        except (KeyError, msgspec.MsgspecError) as error:
            raise CorruptError(
                "this is no checkpoint of a script", where=str(found.path), hint="choose another folder"
            ) from error
        carried.become(story.optimizers)
        carried.restore(found.parameters, found.moments)
        self._saved = found.facts.step
        return found.facts.step, story.extra

    def step_done(self, step: int, carried: Carried, extra: dict[str, Any]) -> None:
        """One that is still being written is not waited for."""
        if self._every and step % self._every == 0:
            self._save(step, carried, extra)

    def close(self, step: int, carried: Carried, extra: dict[str, Any]) -> None:
        """The last one is on the disk when this returns."""
        if self._writer:
            self._writer.wait(WAIT_S)
        if step > self._saved and self._save(step, carried, extra) and self._writer:
            self._writer.wait(WAIT_S)

    def _save(self, step: int, carried: Carried, extra: dict[str, Any]) -> bool:
        self._writer = self._writer or CheckpointWriter(self._folder, KEPT, self._told)
        story = msgspec.json.encode(Story(carried.about(), extra)).decode()
        facts = Facts(
            step=step, tokens=0, progress=0.0, version=0, model=ModelSpec(), data="", feed={"story": story}
        )
        model = {name: as_array(tensor) for name, tensor in carried.model_tensors().items()}
        moments = {name: as_array(tensor) for name, tensor in carried.optimizer_tensors().items()}
        return self._writer.save(facts, model, moments)

    def _told(self, saved: Saved) -> None:
        if saved.error:
            print(f"isthmus: no checkpoint of step {saved.facts.step}: {saved.error}", file=sys.stderr)
        else:
            self._saved = max(self._saved, saved.facts.step)
