"""What a run will do, decided before it starts: the planner's answer and everyone else's orders."""

import msgspec

from isthmus.errors import NotFoundError


class SitePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One site's part."""

    name: str
    chips: list[str]
    """Chip of each rank, in rank order."""
    rank_batch: int
    """Sequences each rank adds to an inner step."""
    micro_batch: int
    """Sequences a rank runs at once; `rank_batch` is a multiple of it."""
    share: float
    """Expected share of the run's tokens."""
    streams: int
    """Parallel TCP streams to the parameter server."""
    bytes_up: int
    """Payload of one push (framing not counted)."""
    bytes_down: int
    """Payload of one new version, as a delta."""
    transfer_s: float
    """Expected time from a push to its result: up, merge, down."""
    hidden: bool | None = None
    """Whether `inner_steps` steps take longer than the transfer; None where no step time was measured."""

    @property
    def num_ranks(self) -> int:
        return len(self.chips)

    @property
    def accumulation(self) -> int:
        """Micro-batches of one rank in an inner step."""
        return self.rank_batch // self.micro_batch


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What `make_plan` decided. JSON by msgspec."""

    sites: list[SitePlan]
    num_params: int
    active_params: int
    """Parameters that one token passes through."""
    total_samples: int
    """Sequences of the whole run, a multiple of `batch_size`."""
    batch_size: int
    """Sequences in one inner step of one site."""
    fragments: int
    """Parts of the model that are sent by themselves."""
    codec: str
    down_codec: str
    mode: str
    inner_steps: int
    """H of the fastest site."""
    delay: int
    """Inner steps from a push to its result; -1: when it is there (elastic), measured at start (strict)."""
    quorum: int
    """Contributions that a merge needs; strict: all sites."""
    reasons: list[str]
    """Why the derived values are what they are, a line each."""
    warnings: list[str]
    """What will work, but not well."""

    @property
    def num_ranks(self) -> int:
        return sum(site.num_ranks for site in self.sites)

    @property
    def total_steps(self) -> int:
        """Inner steps of all sites together."""
        return self.total_samples // self.batch_size

    def site(self, name: str) -> SitePlan:
        """Raises NotFoundError if the fleet has no such site."""
        for site in self.sites:
            if site.name == name:
                return site
        known = ", ".join(site.name for site in self.sites)
        raise NotFoundError(f"there is no site '{name}'", hint=f"the fleet has {known}")
