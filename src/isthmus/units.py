"""Quantities that people write with a unit. Each is a plain number inside, so arithmetic needs no wrapper."""

import math
import re
from collections.abc import Mapping
from typing import ClassVar, Self

_NUMBER = re.compile(r"\s*([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ/]*)\s*")


def _scale(value: str | float, units: Mapping[str, float], example: str) -> float:
    """The number in the base unit. ValueError (with an example) unless it is a finite quantity >= 0."""
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if not match:
            raise ValueError(f"'{value}' is not a quantity; write for example '{example}'")
        digits, unit = match[1].replace("_", ""), match[2]
        if unit not in units:
            fault = f"has the unknown unit '{unit}'" if unit else "has no unit"
            raise ValueError(f"'{value}' {fault}; known are {', '.join(filter(None, units))}")
        value = (int(digits) if digits.isdigit() else float(digits)) * units[unit]
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a quantity; write for example '{example}'")
    if not 0 <= value < math.inf:
        raise ValueError(f"{value} is not a finite quantity >= 0; write for example '{example}'")
    return value


def _short(value: float, units: Mapping[str, float]) -> str:
    """Three digits in the largest unit of `units` (largest first) in which that is 1 or more."""
    digits = [(f"{value / scale:.3g}", unit) for unit, scale in units.items()]
    number, unit = next((each for each in digits if float(each[0]) >= 1), digits[-1])
    return f"{number} {unit}"


class Seconds(float):
    """A duration: '30 ms', '10 s', '5 min', '2 h'."""

    EXAMPLE: ClassVar[str] = "30 ms"
    UNITS: ClassVar[Mapping[str, float]] = {
        "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
    }  # fmt: skip
    SHOWN: ClassVar[Mapping[str, float]] = {"h": 3600.0, "min": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}

    @classmethod
    def parse(cls, value: str | float) -> Self:
        return cls(_scale(value, cls.UNITS, cls.EXAMPLE))

    def __str__(self) -> str:
        return _short(self, self.SHOWN) if self else "0 s"


class Bytes(int):
    """An amount of memory or data: '4 GiB', '200 MB'."""

    EXAMPLE: ClassVar[str] = "4 GiB"
    UNITS: ClassVar[Mapping[str, int]] = {
        "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
        "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    }  # fmt: skip
    SHOWN: ClassVar[Mapping[str, int]] = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}

    @classmethod
    def parse(cls, value: str | float) -> Self:
        return cls(round(_scale(value, cls.UNITS, cls.EXAMPLE)))

    def __str__(self) -> str:
        return _short(int(self), self.SHOWN)


class Bandwidth(float):
    """Bits per second, as links are sold: '1 Gbps', '100 Mbit/s'."""

    EXAMPLE: ClassVar[str] = "1 Gbps"
    UNITS: ClassVar[Mapping[str, float]] = {
        "bps": 1.0, "kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9, "Tbps": 1e12,
        "bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9, "Tbit/s": 1e12,
    }  # fmt: skip
    SHOWN: ClassVar[Mapping[str, float]] = {"Tbps": 1e12, "Gbps": 1e9, "Mbps": 1e6, "kbps": 1e3, "bps": 1.0}

    @classmethod
    def parse(cls, value: str | float) -> Self:
        return cls(_scale(value, cls.UNITS, cls.EXAMPLE))

    @property
    def bytes_per_s(self) -> float:
        return self / 8

    def __str__(self) -> str:
        return _short(self, self.SHOWN)


class Count(int):
    """A number of things, with an SI suffix if large: '2M' tokens, '1.5B', '300'."""

    EXAMPLE: ClassVar[str] = "2M"
    UNITS: ClassVar[Mapping[str, int]] = {
        "": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12,
    }  # fmt: skip
    SHOWN: ClassVar[Mapping[str, int]] = {"T": 10**12, "B": 10**9, "M": 10**6, "k": 10**3, "": 1}

    @classmethod
    def parse(cls, value: str | float) -> Self:
        return cls(round(_scale(value, cls.UNITS, cls.EXAMPLE)))

    def __str__(self) -> str:
        return _short(int(self), self.SHOWN).replace(" ", "")


Quantity = Seconds | Bytes | Bandwidth | Count


def exact(quantity: Quantity) -> str:
    """The shortest text that `parse` turns back into exactly this value: "90 s", not "0.025 h"."""
    texts = [
        _written(quantity, unit, scale) for unit, scale in quantity.SHOWN.items() if quantity or scale == 1
    ]
    same = [text for text in texts if type(quantity).parse(text) == quantity]
    return min(same, key=lambda text: (len(text), text.startswith("0.")))


def _written(quantity: Quantity, unit: str, scale: float) -> str:
    number = quantity / scale if quantity % scale else quantity // scale
    gap = "" if isinstance(quantity, Count) else " "
    return f"{int(number) if number == int(number) else number!r}{gap}{unit}"
