"""The feed of a site that is joined to others: leases and versions from the parameter server."""

from isthmus.outer.site import Site
from isthmus.train.feed import Done, FeedState, Idle, Offer, Range, StepStats, Work


class SiteFeed:
    """A `Feed` over an entered `Site`.

    Args:
        site: joined already, its model holds the published parameters; or resumed, it holds those of the
            other ranks, and a version that they may lack.
        num_samples: the whole run's budget, for the learning rate's schedule.
    """

    def __init__(self, site: Site, num_samples: int):
        self._site = site
        self._num_samples = num_samples
        self._reached = 0
        self._changed = site.changed

    @property
    def version(self) -> int:
        return self._site.version

    @property
    def wait_s(self) -> float:
        return self._site.wait_s

    def next(self, num_sequences: int) -> Offer:
        if self._site.redo:
            return Offer(self._work(self._site.redo), self._take_changed())
        taken = self._site.take(num_sequences)
        self._changed = self._site.poll() or self._changed
        changed = self._take_changed()
        if taken:
            return Offer(self._work(taken), changed, self._site.was_reset())
        if self._site.stopping:
            self._site.leave(self._site.stopping)
            return Offer(Done(self._site.stopping), changed)
        return Offer(Idle(), changed, self._site.was_reset())

    def _work(self, ranges: list[Range]) -> Work:
        self._reached = max(self._reached, ranges[-1][1])
        return Work(ranges, self._reached / self._num_samples)

    def _take_changed(self) -> bool:
        changed, self._changed = self._changed, False
        return changed

    def after_step(self, stats: StepStats) -> None:
        """A step that the site has counted already, under an earlier rank 0, is not counted again."""
        if stats.step > self._site.steps:
            changed = self._site.step(
                tokens=stats.tokens,
                samples=stats.ranges,
                group_tokens=stats.expert_tokens,
                busy_s=stats.step_s,
            )
        else:
            changed = stats.step == self._site.steps and self._site.redone()
        self._changed = changed or self._changed

    def leave(self, reason: str, timeout_s: float) -> None:
        self._site.leave(reason, timeout_s)

    def state(self) -> FeedState:
        return {"reached": self._reached}

    def restore(self, state: FeedState) -> None:
        self._reached = int(state.get("reached", 0))
