"""LatencyPredictor: whole networks from kernel times, `a * sum + b * count + c + d * moved + e * weights`, fitted on whole networks.

The sum alone is off by what profiling adds to a node, by what runs between kernels, and by what is in a cache when the next run
starts; five numbers, fitted on relative error, take that out. The interval is a conformal one (Vovk et al.; normalised as in
Papadopoulos et al., 2002): the 80 % quantile of leave-one-out relative residuals, in units of what each was expected to be off by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from edgenas.artifacts.kernel import BYTES_PER_VALUE, Kernel, Precision
from edgenas.artifacts.latency_estimate import KernelEstimate, LatencyEstimate
from edgenas.errors import TargetError
from edgenas.latency.kernel_model import KernelGuess, KernelModel, network_mib, unsure
from edgenas.latency.table import LatencyTable, kernel_model
from edgenas.network.fuse import FusionRules, fuse
from edgenas.network.graph import Network

COVERAGE = 0.86  # of networks left out, for 80 % of those to come: they are less alike
NOISE = 0.03  # relative; expected of a network all of whose kernels were measured
LEAST_SCALE = (
    0.77  # what the errors of kernels that were not measured come to at least, in units of their standard deviations
)
LEAST_SHARE = (
    0.25  # of what a network's kernels take: what lies far outside of what was fitted doesn't take nothing, or less
)
MIN_SAMPLES = 3  # as many as there are coefficients without the bytes
MIN_FOR_BYTES = 40  # networks from which on those have rates too


class Sample(NamedTuple):
    """A network that was timed: the sums of its kernels (see `kernel_terms`), how unsure that of their times is (relative), and its
    own time."""

    terms: tuple[float, ...]
    unsure: float
    measured_ms: float


@dataclass(frozen=True)
class Affine:
    """ms = a * sum of kernels + b * their number + c + d * MiB moved + e * MiB of weights.

    `scale`: by how much errors exceed what is expected of them. `domain_ms`: the range of the measurements that it was fitted on.
    """

    a: float
    b: float
    c: float
    d: float
    e: float
    scale: float
    domain_ms: tuple[float, float]

    def half_width(self, unsure: float) -> float:
        """Relative (0.05 is ±5 %), of a network of whose time the kernels that were not measured make this share unsure."""
        return float(np.hypot(self.scale * NOISE, max(self.scale, LEAST_SCALE) * unsure))

    def apply(self, terms: np.ndarray) -> np.ndarray:
        """(N, 4) sums of `kernel_terms` -> (N,) ms."""
        sums, counts, moved, weights = terms.T
        total = self.a * sums + self.b * counts + self.c + self.d * moved + self.e * weights
        return np.maximum(total, np.maximum(LEAST_SHARE * self.a * sums, 1e-6))


@dataclass(frozen=True)
class LatencyPredictor:
    precision: Precision
    rules: FusionRules
    kernels: KernelModel
    affine: Affine
    samples: tuple[Sample, ...]  # it was fitted on
    in_context: bool = False  # kernels cost more in a network that moves more bytes

    @property
    def correction(self) -> dict[str, Any]:
        """What tells it from another one of the same table."""
        return dict(vars(self.affine))

    def latency_ms(self, network: Network) -> float:
        found = [fused.kernel for fused in fuse(network, self.rules, self.precision)]
        times = self.kernels.times_ms(found, self._network_mib(found))
        return float(self.affine.apply(np.array([_sums(found, times)]))[0])

    def estimate(self, network: Network) -> LatencyEstimate:
        return self.estimate_kernels(tuple(fused.kernel for fused in fuse(network, self.rules, self.precision)))

    def estimate_kernels(self, found: Sequence[Kernel]) -> LatencyEstimate:
        guesses = self.kernels.estimates(found, self._network_mib(found))
        ms = float(self.affine.apply(np.array([_sums(found, [guess.ms for guess in guesses])]))[0])
        width = self.affine.half_width(unsure(guesses))
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

    def _network_mib(self, found: Sequence[Kernel]) -> float | None:
        return network_mib(found) if self.in_context else None

    def _notes(self, ms: float, inside: bool, formula: Sequence[str]) -> tuple[str, ...]:
        notes = []
        if formula:
            notes.append(f"never measured, so estimated from bytes and MACs: {', '.join(formula)}")
        if not inside:
            low, high = self.affine.domain_ms
            notes.append(f"the networks that were timed take {low:.3g} to {high:.3g} ms; this one lies outside")
        return tuple(notes)

    def corrected(self, network: Network, measured_ms: float) -> LatencyPredictor:
        """The predictor after one more whole network was measured, all times as much more or less as that one's. It lies where the
        search looks; and what makes a table wrong (another clock or power mode, another version) is wrong by a factor."""
        factor = measured_ms / self.latency_ms(network)
        scaled = {key: factor * value for key, value in vars(self.affine).items() if key not in ("scale", "domain_ms")}
        low_ms, high_ms = self.affine.domain_ms
        return replace(self, affine=replace(self.affine, **scaled, domain_ms=(factor * low_ms, factor * high_ms)))


def fit(table: LatencyTable, rules: FusionRules) -> LatencyPredictor:
    """From a table and the whole networks in it. Deterministic. Raises TargetError for a table of too few networks."""
    kernels = kernel_model(table)
    samples = []
    for network in table.networks if table.times else ():
        if network.left_out is None:
            guesses = kernels.estimates(network.kernels, network_mib(network.kernels) if table.in_context else None)
            samples.append(_sample(network.kernels, guesses, network.ms))
        else:
            sums = _sums(network.kernels, [])
            samples.append(Sample((network.left_out.sum_ms, *sums[1:]), network.left_out.unsure, network.ms))
    if len(samples) < MIN_SAMPLES:
        raise TargetError(
            f"{len(samples)} networks were timed in {table.meta.precision}, but a predictor needs {MIN_SAMPLES}",
            "Profile again; if the runtime refuses the networks, its message is in the profile's records.",
        )
    return LatencyPredictor(
        table.meta.precision, rules, kernels, _fit_affine(tuple(samples)), tuple(samples), table.in_context
    )


def kernel_terms(kernel: Kernel, ms: float) -> tuple[float, float, float, float]:
    """What a kernel adds to its network: its time, itself, MiB moved, MiB of weights."""
    weights = kernel.params * BYTES_PER_VALUE[kernel.precision]
    return ms, 1.0, kernel.bytes_moved / 2**20, weights / 2**20


def _sums(kernels: Sequence[Kernel], times_ms: Sequence[float]) -> tuple[float, ...]:
    """Over a network; without times the first is zero."""
    each = [kernel_terms(kernel, ms) for kernel, ms in zip(kernels, times_ms or [0.0] * len(kernels), strict=True)]
    return tuple(sum(column) for column in zip(*each, strict=True)) or (0.0,) * 4


def _sample(kernels: Sequence[Kernel], guesses: Sequence[KernelGuess], measured_ms: float) -> Sample:
    return Sample(_sums(kernels, [guess.ms for guess in guesses]), unsure(guesses), measured_ms)


def _fit_affine(samples: tuple[Sample, ...]) -> Affine:
    """Least squares of relative errors, once more without what lies beyond four median deviations (measured while the machine was
    busy). The interval comes from all samples, each judged by a fit without it, in units of what it was unsure of beforehand."""
    terms = np.array([sample.terms for sample in samples])
    unsure_, measured = np.array([[sample.unsure, sample.measured_ms] for sample in samples]).T
    used = terms[:, :2] if len(samples) < MIN_FOR_BYTES else terms
    design = np.column_stack([used, np.ones(len(used))]) / measured[:, None]
    scale = np.maximum(np.abs(design).max(axis=0), 1e-12)  # milliseconds and counts are orders apart
    design /= scale
    kept = np.ones(len(measured), bool)
    for _ in range(2):
        gram = np.linalg.pinv(design[kept].T @ design[kept])
        coefficients = gram @ design[kept].sum(axis=0)
        residual = np.abs(1 - design @ coefficients)
        kept = residual <= max(4 * float(np.median(residual)), 1e-9)
    leverage = np.einsum("ij,jk,ik->i", design, gram, design).clip(0, 0.99)
    rank = min(1.0, np.ceil((len(measured) + 1) * COVERAGE) / len(measured))
    a, b, *rest, c = (float(v) for v in coefficients / scale)
    d, e = rest or (0.0, 0.0)
    expected = np.hypot(NOISE, unsure_)
    return Affine(
        *(a, b, c, d, e),
        scale=float(np.quantile(residual / (1 - leverage) / expected, rank)),
        domain_ms=(float(measured.min()), float(measured.max())),
    )
