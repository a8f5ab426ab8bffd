"""Published models by name, for rows and configurations that give no more than that."""

import re
from functools import cache

from isthmus.planner.models.gated import gated_models
from isthmus.planner.models.known import KnownModel
from isthmus.planner.models.moe import mixtures
from isthmus.planner.models.ungated import ungated_models

_VARIANT = re.compile(r"[-_ ]+(hf|base|chat|instruct|it|v0\.\d|bf16|thinking|\d{4})$")
"""What a name may end in that leaves the shapes as they are."""


def find_model(name: str) -> KnownModel | None:
    """Whatever its case, hyphens, owner and variant: 'LLAMA3_70B', 'meta-llama/Llama-3.1-70B-Instruct'."""
    plain = name.lower().rpartition("/")[2].strip().removeprefix("meta-")
    while (shorter := _VARIANT.sub("", plain)) != plain:
        plain = shorter
    names = _by_name()
    return names.get(_squash(plain)) or names.get(_squash(plain).removesuffix("moe"))


@cache
def known_models() -> tuple[KnownModel, ...]:
    """All of them, family by family."""
    return (*gated_models(), *ungated_models(), *mixtures())


@cache
def _by_name() -> dict[str, KnownModel]:
    return {_squash(name): model for model in known_models() for name in (model.name, *model.aliases)}


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
