"""The final measurement of bench_headline: all files in one interleaved run, several times over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from edgenas.artifacts.kernel import Precision
from edgenas.measure import most_tries
from edgenas.pipeline.context import Machine
from edgenas.pipeline.measuring import CHECK

ROUNDS = 5


@dataclass(frozen=True)
class Timed:
    """`ms`: the median of the rounds, by name and precision. `median_spread_pct`: by how much the slowest round of a file exceeds its
    fastest, the median of all files; None without any."""

    ms: dict[tuple[str, Precision], float]
    median_spread_pct: float | None


def timed_together(machine: Machine, files: Mapping[str, Mapping[Precision, onnx.ModelProto]]) -> Timed:
    pairs = [(name, p) for name in files for p in machine.precisions]
    models, precisions = [files[name][p] for name, p in pairs], [p for _, p in pairs]
    if not pairs:
        return Timed({}, None)

    def ratios() -> list[float]:
        measured = machine.bench.time_models(models, CHECK, precisions=precisions, tries=most_tries())
        return [each.reference_ratio for each in measured]

    rounds = np.array([ratios() for _ in range(ROUNDS)])
    ms = (machine.bench.quiet_reference_ms or 0.0) * np.median(rounds, axis=0)
    spread_pct = 100 * (rounds.max(axis=0) / rounds.min(axis=0) - 1)
    return Timed(dict(zip(pairs, ms.tolist(), strict=True)), round(float(np.median(spread_pct)), 1))
