"""A client's side of its ranks: their line, the vectors they share, what a next rank 0 needs. No torch."""

import contextlib

from isthmus.errors import AuthError
from isthmus.outer import bridge
from isthmus.outer.recall import Recall
from isthmus.outer.site_state import SiteState
from isthmus.wire.line import LineClosedError


class Ranks:
    """Owns the line to rank 0 and the shared vectors."""

    def __init__(self) -> None:
        self.attach: bridge.Attach | None = None
        """What the first rank 0 said of its model."""
        self.vectors: bridge.Vectors | None = None
        self.recall = Recall()
        self._line: bridge.Line | None = None
        self._attended = False
        """The ranks on this line have attached."""
        self._alone_s: float | None = None
        """Since when there is no rank 0, while one is awaited in its place."""
        self._told_line: bridge.Line | None = None
        """The ranks that know of the refusal."""

    def dialled(self, line: bridge.Line) -> None:
        self._line = line

    def speak_on(self, line: bridge.Line) -> bool:
        """This is their line, not one of before."""
        return line is self._line

    def hung_up(self) -> bool:
        """There is no rank 0 any more. True if it left a note."""
        if self._line:
            self._line.close()
            self._line = None
        self._attended = False
        return self.recall.note is not None

    def await_another(self, now_s: float) -> None:
        if self._alone_s is None:
            self._alone_s = now_s

    @property
    def awaited(self) -> bool:
        """Another rank 0 may come in the place of the last."""
        return self._alone_s is not None

    def awaited_s(self, now_s: float) -> float:
        """How long one has been awaited; 0 if none is."""
        return 0.0 if self._alone_s is None else now_s - self._alone_s

    def forget(self) -> None:
        """They are gone for good: the next ones start over."""
        self._alone_s = None
        self.recall = Recall()

    def admit(self, attach: bridge.Attach) -> bool:
        """False, and told, where they build another model than those before."""
        if self.attach is None:
            self.attach = attach
            self.vectors = bridge.Vectors.make(attach.layout.size)
        elif attach.layout.hash != self.attach.layout.hash:
            self.tell(bridge.Refused("the restarted ranks build another model", "restart the site's client"))
            return False
        return True

    def begin(self, *, keeps_notes: bool) -> None:
        self.recall = Recall(keeps=keeps_notes)
        self._answer()

    def resume(self, step: int) -> bool:
        """Rank 0 goes on in the place of another. False, and nothing told, where no note is of that step."""
        answer = self.recall.answer(step)
        if answer is None:
            return False
        self._alone_s = None
        self._answer(*answer)
        return True

    def _answer(self, note: SiteState | None = None, unheard: tuple[bridge.LocalMessage, ...] = ()) -> None:
        assert self.vectors
        self._attended = True
        self.tell(bridge.Attached(str(self.vectors.path), note, unheard))

    def noted(self, note: SiteState | None) -> None:
        self.recall.noted(note)

    def say(self, message: bridge.LocalMessage) -> None:
        """What the machine has for its ranks: kept until they note that they have heard it."""
        self.recall.told(message)
        if self._attended:
            self.tell(message)

    def tell(self, message: bridge.LocalMessage) -> None:
        """Ranks that are gone hear nothing; the line's own thread tells that they are."""
        if self._line:
            with contextlib.suppress(LineClosedError):
                self._line.send(message)

    def refused(self, error: AuthError) -> bool:
        """No server will have this site. True once ranks that were there have been told, and are gone."""
        if self._line and self._told_line is not self._line:
            self._told_line = self._line
            self.tell(bridge.Refused(error.message, error.hint or ""))
        return self._told_line is not None and self._line is None

    def close(self) -> None:
        if self._line:
            self._line.close()
        if self.vectors:
            self.vectors.remove()
