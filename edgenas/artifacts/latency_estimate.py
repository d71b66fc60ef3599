"""A LatencyEstimate: what a predictor says of one network, how sure it is, and where each part comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgenas.artifacts.kernel import Kernel
from edgenas.artifacts.measurement import Provenance

Source = Literal["table", "model", "formula"]


@dataclass(frozen=True)
class KernelEstimate:
    """`table`: measured; `model`: from measured kernels of its kind; `formula`: from its MACs and bytes alone, for a kind that was
    never measured."""

    kernel: Kernel
    ms: float
    source: Source


@dataclass(frozen=True)
class LatencyEstimate:
    """An 80 % interval, `low_ms` to `high_ms`, around `latency_ms`. `kernels` is empty for a device that was only timed as a whole.
    `notes` say in sentences what makes this estimate less certain than others."""

    latency_ms: float
    low_ms: float
    high_ms: float
    provenance: Provenance
    kernels: tuple[KernelEstimate, ...] = ()
    notes: tuple[str, ...] = ()

    def share(self, source: Source) -> float:
        """Of the kernels' time, how much comes from that source: 0 to 1."""
        total = sum(each.ms for each in self.kernels)
        return sum(each.ms for each in self.kernels if each.source == source) / total if total else 0.0
