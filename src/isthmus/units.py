"""Quantities that people write with a unit. Each is a plain number inside, so arithmetic needs no wrapper."""

import re
from typing import Self

_NUMBER = re.compile(r"\s*([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ/]*)\s*")


def _split(text: str, example: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if not match:
        raise ValueError(f"'{text}' is not a quantity; write for example '{example}'")
    return float(match[1].replace("_", "")), match[2]


def _scale(text: str, units: dict[str, float], example: str) -> float:
    number, unit = _split(text, example)
    if unit not in units:
        raise ValueError(
            f"'{text}' has the unit '{unit}'; known are {', '.join(units)}; for example '{example}'"
        )
    return number * units[unit]


class Seconds(float):
    """A duration: '30 ms', '10 s', '5 min', '2 h'."""

    UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

    @classmethod
    def parse(cls, value: str | float) -> Self:
        return cls(_scale(value, cls.UNITS, "30 ms") if isinstance(value, str) else value)

    def __str__(self) -> str:
        for unit, scale in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
            if self >= scale:
                return f"{self / scale:.3g} {unit}"
        return f"{self / 1e-6:.3g} us"


class Bytes(int):
    """An amount of memory or data: '4 GiB', '200 MB'."""

    UNITS = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12} | {
        "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    }  # fmt: skip

    @classmethod
    def parse(cls, value: str | float) -> Self:
        return cls(round(_scale(value, cls.UNITS, "4 GiB") if isinstance(value, str) else value))

    def __str__(self) -> str:
        for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if self >= scale:
                return f"{self / scale:.3g} {unit}"
        return f"{int(self)} B"


class Bandwidth(float):
    """Bits per second, as links are sold: '1 Gbps', '100 Mbit/s'."""

    UNITS = {"bps": 1.0, "kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9, "Tbps": 1e12} | {
        "bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9, "Tbit/s": 1e12,
    }  # fmt: skip

    @classmethod
    def parse(cls, value: str | float) -> Self:
        return cls(_scale(value, cls.UNITS, "1 Gbps") if isinstance(value, str) else value)

    @property
    def bytes_per_s(self) -> float:
        return self / 8

    def __str__(self) -> str:
        for unit, scale in (("Tbps", 1e12), ("Gbps", 1e9), ("Mbps", 1e6), ("kbps", 1e3)):
            if self >= scale:
                return f"{self / scale:.3g} {unit}"
        return f"{float(self):.3g} bps"


class Count(int):
    """A number of things, with an SI suffix if large: '2M' tokens, '1.5B', '300'."""

    UNITS = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}

    @classmethod
    def parse(cls, value: str | float) -> Self:
        return cls(round(_scale(value, cls.UNITS, "2M") if isinstance(value, str) else value))

    def __str__(self) -> str:
        for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
            if self >= scale:
                return f"{self / scale:.3g}{unit}"
        return str(int(self))
