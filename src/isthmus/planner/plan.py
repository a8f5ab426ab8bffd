"""What a run will do, decided before it starts: the planner's answer and everyone else's orders."""

import msgspec

from isthmus.errors import NotFoundError
from isthmus.planner.layout import Layout


class StagePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a pipeline: consecutive layers on chips of one kind, at one site."""

    site: str
    chip: str
    """As the fleet calls it."""
    tp: int = 1
    """Tensor parallel degree on these chips; the stage has tp x cp of them in each replica."""
    first_layer: int
    end_layer: int
    """The layers are first_layer <= i < end_layer; with virtual stages, over all chunks together."""
    chunks: list[tuple[int, int]] = []
    """Virtual stages: (first, end) of each chunk; empty: one chunk."""
    embedding: bool = False
    head: bool = False
    """Holds the output head and computes the loss."""
    recompute_layers: int = 0
    """The first layers of the stage whose activations backward computes again."""
    memory_bytes: int = 0
    """Expected peak on each of its chips."""
    memory_limit: int = 0
    """What may be used: the chip's memory less the headroom."""
    memory: dict[str, int] = {}
    """memory_bytes by what they hold: weights, gradients, optimizer, activations, and other."""
    forward_s: float = 0.0
    """One micro-batch, with the communication inside the stage."""
    backward_s: float = 0.0
    recompute_s: float = 0.0
    """What of backward_s computes whole layers again."""

    @property
    def held_layers(self) -> int:
        parts = self.chunks or [(self.first_layer, self.end_layer)]
        return sum(end - first for first, end in parts)


class PipelinePlan(msgspec.Struct, frozen=True, kw_only=True):
    """`layout.dp` replicas of the model that are cut alike. `layout.tp` is that of the widest stage."""

    layout: Layout
    """`micro_batches` is what each of these replicas runs in a step; other pipelines may run others."""
    stages: list[StagePlan]

    @property
    def chips_per_replica(self) -> int:
        return sum(stage.tp for stage in self.stages) * self.layout.cp

    @property
    def ranks(self) -> list[str]:
        """Chip of each rank: replica by replica, stage by stage."""
        replica = [stage.chip for stage in self.stages for _ in range(stage.tp * self.layout.cp)]
        return replica * self.layout.dp


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan's model of the fleet says of a step, and how far it is to be trusted."""

    step_s: float
    """Of `batch_size` sequences at each site, averaged over the sites that train beside each other."""
    low_s: float
    """The step takes between low_s and high_s nine times of ten."""
    high_s: float
    simulated_s: float
    """step_s with the pipelines played event by event instead of by the closed form."""
    tokens_per_s: float
    """Of the whole fleet, with what the outer loop costs."""
    bound_s: float
    """No plan of this fleet and batch can be faster than this."""
    gap: float
    """(step_s - bound_s) / step_s"""
    parts: dict[str, float] = {}
    """Seconds of the step by what they are spent on; they add up to step_s."""
    price: float = 0.0
    """Of an hour of the chips used, in the currency of the nodes' prices; 0: none has one."""


class Considered(msgspec.Struct, frozen=True, kw_only=True):
    """A plan, or a family of plans, that was looked at."""

    name: str
    """As 'tp 4, pp 12, dp 32'."""
    place: str = ""
    """Site and chips that it is for, as 'jinan h800'. Only plans of one place compete with each other."""
    step_s: float | None = None
    """For `sequences`. None where it cannot run."""
    sequences: float | None = None
    """Of the site's batch, which these chips take in a step: all of it, or a share beside other pipelines."""
    slower: float | None = None
    """Seconds for each sequence against the chosen plan of the place, as a share more: 0.1 is 10 % slower.
    For chips that the chosen plan leaves idle: how much longer its step is if they join in."""
    chosen: bool = False
    why: str = ""
    """What bound it: the constraint that rejected it, or what it loses against the chosen one."""


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
    step_s: float | None = None
    """Expected or measured seconds of an inner step; None where neither is known."""
    pipelines: list[PipelinePlan] = []
    """How the model lies on the chips; empty: each rank has all of it."""

    @property
    def num_ranks(self) -> int:
        return len(self.chips)

    @property
    def places(self) -> list[str]:
        """The fleet's sites that it stands for: itself, and where else its pipelines have stages."""
        stages = (stage.site for pipeline in self.pipelines for stage in pipeline.stages)
        return list(dict.fromkeys([self.name, *stages]))

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
    expected: Expected | None = None
    """None where the plan was made without a model of the chips."""
    considered: list[Considered] = []
    untried: list[str] = []
    """Degrees that no plan considered has, and why, as 'tp 8: 36 heads do not divide'."""

    @property
    def num_ranks(self) -> int:
        return sum(site.num_ranks for site in self.sites)

    @property
    def total_steps(self) -> int:
        """Inner steps of all sites together."""
        return self.total_samples // self.batch_size

    def site(self, name: str) -> SitePlan:
        """Raises NotFoundError if the plan has no such site."""
        for site in self.sites:
            if site.name == name:
                return site
        known = ", ".join(site.name for site in self.sites)
        raise NotFoundError(f"there is no site '{name}'", hint=f"the plan has {known}")
