"""What the server machine needs to know, from the run's specs and plan."""

import msgspec

from isthmus import __version__
from isthmus.outer.messages import Identity, Terms
from isthmus.outer.protocol import ServerConfig
from isthmus.planner.plan import Plan
from isthmus.spec.run import OuterSpec


def server_config(plan: Plan, outer: OuterSpec) -> ServerConfig:
    """Identity and number of fragments are still to be filled in: they are those of the first weights."""
    return ServerConfig(
        terms=Terms(
            mode=outer.mode,
            inner_steps=plan.inner_steps,
            delay=plan.delay,
            codec=plan.codec,
            down_codec=plan.down_codec,
            block_size=outer.block_size,
            budget=plan.total_samples,
            batch_size=plan.batch_size,
            outage_reserve_s=float(outer.outage_reserve),
        ),
        identity=Identity(code_version=__version__),
        sites=tuple(site.name for site in plan.sites),
        quorum=outer.quorum,
        staleness_max=outer.staleness_max,
        outlier_factor=outer.outlier_factor,
        site_timeout_s=float(outer.site_timeout),
        standby_timeout_s=float(outer.standby_timeout),
    )


def read_plan(data: bytes) -> Plan:
    return msgspec.json.decode(data, type=Plan)
