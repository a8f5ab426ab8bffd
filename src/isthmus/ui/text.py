"""Numbers as people read them, the same in the terminal and on the page."""

import math
import time

NONE = "–"
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: float, digits: int = 3) -> str:
    """Three significant digits with an SI prefix: 3.53M, 412, 0.062."""
    if not math.isfinite(value):
        return NONE if math.isnan(value) else str(value)
    value = float(f"{value:.{digits}g}")
    for scale, prefix in _SCALES:
        if abs(value) >= scale:
            return f"{_significant(value / scale, digits)}{prefix}"
    return str(int(value)) if value == int(value) else _significant(value, digits)


def _significant(value: float, digits: int) -> str:
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(0, digits - whole)}f}" if abs(value) >= 0.001 else f"{value:.{digits}g}"


def tick(value: float) -> str:
    """For an axis: 1.5M, 20k, 0."""
    shown = number(value)
    digits = shown.rstrip("TGMk")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + shown[len(digits) :]


def size(num_bytes: float) -> str:
    return number(num_bytes).rstrip("TGMk") + " " + number(num_bytes).lstrip("-0123456789.") + "B"


def bandwidth(bps: float) -> str:
    return (number(bps).rstrip("TGMk") + " " + number(bps).lstrip("-0123456789.") + "bit/s") if bps else NONE


def percent(share: float) -> str:
    return f"{100 * share:.{1 if 0.1 <= share < 0.9995 else 2}f} %" if math.isfinite(share) else NONE


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def loss(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else NONE


def ratio(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else NONE


def clock(wall_s: float) -> str:
    """Local time of day, with milliseconds."""
    return time.strftime("%H:%M:%S", time.localtime(wall_s)) + f".{int(wall_s % 1 * 1000):03d}"
