"""Numbers as text for the report; None where there is no number, and the template says in words what is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

NBSP = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def number(value: object) -> float | None:
    """`value` when it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def significant(value: object, digits: int = 3) -> str | None:
    """0.08123 -> 0.0812, 0.11 -> 0.110, 1234.5 -> 1,234."""
    known = number(value)
    if known is None:
        return None
    if known == 0:
        return "0"
    rounded = float(f"{known:.{digits}g}") if abs(known) < 10**digits else known
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}".replace("-", MINUS)


def with_unit(unit: str) -> Callable[[object], str | None]:
    def text(value: object) -> str | None:
        figure = significant(value)
        return figure and f"{figure}{NBSP}{unit}"

    return text


ms = with_unit("ms")


def percent(value: object, unit: bool = True) -> str | None:
    """A fraction of one, in percent with one decimal."""
    known = number(value)
    return None if known is None else f"{known * 100:.1f}" + (f"{NBSP}%" if unit else "")


def size(value: object) -> str | None:
    """Bytes in KiB or MiB."""
    known = number(value)
    if known is None:
        return None
    return with_unit("KiB")(known / 1024) if known < 1024**2 * 0.9995 else with_unit("MiB")(known / 1024**2)


def amount(value: object) -> str | None:
    """A count, in thousands (k), millions (M) or billions (G)."""
    known = number(value)
    if known is None:
        return None
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if known >= scale * 0.9995:
            return with_unit(unit)(known / scale)
    return f"{known:,.0f}"


def whole(value: object) -> str | None:
    known = number(value)
    return None if known is None else f"{known:,.0f}"


def duration(value: object) -> str | None:
    known = number(value)
    if known is None:
        return None
    minutes, seconds = divmod(round(known), 60)
    if known < 59.95:
        return f"{known:.1f}{NBSP}s"
    return (
        f"{minutes}{NBSP}min {seconds:02}{NBSP}s"
        if minutes < 60
        else f"{minutes // 60}{NBSP}h {minutes % 60:02}{NBSP}min"
    )


def interval(top1: object, n: object) -> str | None:
    """The 95 % Wilson interval of an accuracy over n images."""
    p, count = number(top1), number(n)
    if p is None or not count or not 0 <= p <= 1:
        return None
    z2 = 1.96**2 / count
    centre, half = (p + z2 / 2) / (1 + z2), math.sqrt(z2 * (p * (1 - p) + z2 / 4)) / (1 + z2)
    return f"{(centre - half) * 100:.1f}–{(centre + half) * 100:.1f}{NBSP}%"


def signed(value: float, text: str) -> str:
    """`text` (of the absolute value) with the sign of `value`, and no sign where the text rounds to nothing."""
    return text if not re.search(r"[1-9]", text) else f"{'+' if value > 0 else MINUS}{text}"
