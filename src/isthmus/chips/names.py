"""Which family a chip belongs to. No torch here: the planner and the CLI ask too."""

from isthmus.errors import InputError

FAMILIES: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "cuda": (
        "v100", "t4", "a10", "a30", "a40", "a100", "a800", "l4", "l20", "l40", "l40s",
        "h100", "h200", "h20", "h800", "b100", "b200", "gb200", "rtx3090", "rtx4090", "rtx5090",
    ),
    "ascend": ("ascend910", "ascend910a", "ascend910b", "ascend910c",
        "ascend910b1", "ascend910b2", "ascend910b3", "ascend910b4"),
}  # fmt: skip
"""Family, which is also the name of its file here -> the models that people write in a fleet."""


def family_of(name: str) -> str:
    """'h100' -> 'cuda', 'Ascend910B' -> 'ascend', 'cpu' -> 'cpu'. InputError if no file here drives it."""
    plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    for family, models in FAMILIES.items():
        if plain == family or plain in models:
            return family
    known = "; ".join(f"{family}: {', '.join(models) or family}" for family, models in FAMILIES.items())
    raise InputError(f"unknown chip '{name}'", where="chips", hint=f"known are {known}")
