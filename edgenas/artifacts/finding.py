"""A Finding: something that stands in the way of a model on a device, seen before anything is trained or built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """An `error` stops the build; a `warning` is something that edgenas mends itself, or that costs time or memory. `what` is one
    sentence that names the operator or the number, `remedy` the next thing to do."""

    severity: Severity
    what: str
    remedy: str
