"""LatencyPredictor: whole networks from kernel times, `a * sum + b * kernel_count + c`, fitted on whole networks timed on the device.

The sum alone is off by what profiling adds to a node and by what runs between kernels; three numbers, fitted on relative error,
take that out. The interval is a split-conformal one (Vovk et al.): the 80 % quantile of leave-one-out relative residuals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.artifacts.latency_estimate import KernelEstimate, LatencyEstimate
from edgenas.errors import TargetError
from edgenas.latency.kernel_model import KernelModel
from edgenas.latency.table import LatencyTable
from edgenas.network.fuse import FusionRules, fuse
from edgenas.network.graph import Network

COVERAGE = 0.8
Z_80 = 1.2816  # of a normal distribution, 80 % lies within so many standard deviations
MIN_SAMPLES = 3  # as many as there are coefficients
CORRECTION_WEIGHT = 4  # of a measured candidate, in units of all the samples fitted before


@dataclass(frozen=True)
class Affine:
    """`half_width` is relative: 0.05 means ±5 %. `domain_ms` is the range of the measurements that it was fitted on."""

    a: float
    b: float
    c: float
    half_width: float
    domain_ms: tuple[float, float]

    def apply(self, sums_ms: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.maximum(self.a * sums_ms + self.b * counts + self.c, 1e-6)


@dataclass(frozen=True)
class LatencyPredictor:
    precision: Precision
    rules: FusionRules
    kernels: KernelModel
    affine: Affine
    samples: tuple[tuple[float, int, float], ...]  # (sum of kernels ms, kernel count, measured ms) it was fitted on

    def sum_and_count(self, network: Network) -> tuple[float, int]:
        found = [fused.kernel for fused in fuse(network, self.rules, self.precision)]
        return sum(self.kernels.times_ms(found)), len(found)

    def latency_ms(self, network: Network) -> float:
        total, count = self.sum_and_count(network)
        return float(self.affine.apply(np.array([total]), np.array([count]))[0])

    def estimate(self, network: Network) -> LatencyEstimate:
        return self.estimate_kernels(tuple(fused.kernel for fused in fuse(network, self.rules, self.precision)))

    def estimate_kernels(self, found: Sequence[Kernel]) -> LatencyEstimate:
        """The interval takes in what the whole networks left over and what the kernels that were not measured may be off by. Their
        errors are taken to go together: one regression made them."""
        guesses = self.kernels.estimates(found)
        times = [guess.ms for guess in guesses]
        total = max(sum(times), 1e-12)
        ms = float(self.affine.apply(np.array([sum(times)]), np.array([len(found)]))[0])
        unsure = sum(g.ms * g.relative_std for g in guesses if g.source != "table") / total
        width = float(np.hypot(self.affine.half_width, Z_80 * unsure))
        inside = self.affine.domain_ms[0] * 0.8 <= ms <= self.affine.domain_ms[1] * 1.25
        formula = sorted({k.op for k, g in zip(found, guesses, strict=True) if g.source == "formula"})
        parts = tuple(KernelEstimate(k, g.ms, g.source) for k, g in zip(found, guesses, strict=True))
        return LatencyEstimate(
            latency_ms=ms,
            low_ms=ms * max(0.0, 1 - width),
            high_ms=ms * (1 + width),
            provenance="calibrated" if inside and not formula else "modelled",
            kernels=parts,
            notes=self._notes(ms, inside, formula),
        )

    def _notes(self, ms: float, inside: bool, formula: Sequence[str]) -> tuple[str, ...]:
        notes = []
        if formula:
            notes.append(f"never measured, so estimated from bytes and MACs: {', '.join(formula)}")
        if not inside:
            low, high = self.affine.domain_ms
            notes.append(f"the networks that were timed take {low:.3g} to {high:.3g} ms; this one lies outside")
        return tuple(notes)

    def corrected(self, network: Network, measured_ms: float) -> LatencyPredictor:
        """The predictor after one more whole network was measured. It counts more than all the others together: it lies where
        the search looks, and there the prediction was wrong."""
        total, count = self.sum_and_count(network)
        extra = ((total, count, measured_ms),) * (CORRECTION_WEIGHT * len(self.samples))
        return replace(self, affine=_fit_affine(self.samples + extra), samples=self.samples + extra)


def fit(table: LatencyTable, rules: FusionRules) -> LatencyPredictor:
    """From a table and the whole networks in it. Deterministic. Raises TargetError for a table of too few networks."""
    kernels = KernelModel({kernel: time.mean_ms for kernel, time in table.times.items()})
    samples = []
    for network in table.networks if table.times else ():
        times = kernels.times_ms(network.kernels)
        samples.append((sum(times), len(times), network.ms))
    if len(samples) < MIN_SAMPLES:
        raise TargetError(
            f"{len(samples)} networks were timed in {table.meta.precision}, but a predictor needs {MIN_SAMPLES}",
            "Profile again; if the runtime refuses the networks, its message is in the profile's records.",
        )
    return LatencyPredictor(table.meta.precision, rules, kernels, _fit_affine(tuple(samples)), tuple(samples))


def _fit_affine(samples: tuple[tuple[float, int, float], ...]) -> Affine:
    """Least squares of relative errors, once more without what lies beyond four median deviations (measured while the machine was
    busy). The interval comes from all samples, each judged by a fit without it."""
    sums, counts, measured = (np.array(column, float) for column in zip(*samples, strict=True))
    design = np.stack([sums, counts, np.ones_like(sums)], axis=1) / measured[:, None]
    kept = np.ones(len(measured), bool)
    for _ in range(2):
        gram = np.linalg.pinv(design[kept].T @ design[kept])
        coefficients = gram @ design[kept].sum(axis=0)
        residual = np.abs(1 - design @ coefficients)
        kept = residual <= max(4 * float(np.median(residual)), 1e-9)
    leverage = np.einsum("ij,jk,ik->i", design, gram, design).clip(0, 0.99)
    rank = min(1.0, np.ceil((len(measured) + 1) * COVERAGE) / len(measured))
    a, b, c = (float(v) for v in coefficients)
    half_width = float(np.quantile(residual / (1 - leverage), rank))
    return Affine(a, b, c, half_width, (float(measured.min()), float(measured.max())))
