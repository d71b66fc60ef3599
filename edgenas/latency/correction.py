"""From the sum of a network's kernels to its latency: what a runtime does between kernels, and what profiling got wrong by kind.

`latency = a * sum + b * kernels + c + sum over kinds (d_kind * time of that kind)`, in relative errors. The d are drawn to zero (a
ridge, Hoerl & Kennard, 1970), by as much as brings the networks that were left out closest; unless they clearly help they are zero,
and what is left is affine. On phone GPUs small kernels overlap with others, or wait for them, in ways that a sum can't know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.artifacts.kernel import Kernel
from edgenas.latency.kernel_features import family

KINDS: tuple[tuple[str, ...], ...] = (
    ("depthwise convolution",),
    ("matrix product", "reduction"),
    ("movement", "pool", "elementwise"),
)  # families whose time gets a coefficient of its own; the rest is convolutions
FREEDOMS = (0.0, 0.1, 0.3, 1.0)  # standard deviation that a d is expected to have; 0: none
CLEARLY_BETTER = 0.98  # error left by a freer correction, over that of the one before
NOISE = 0.04  # relative, of a network's measurement and its kernels together
OUTLIER = 0.08  # relative error from which on a network counts less
CAP = 0.3  # one network's relative error, when freedoms are compared
ROUNDS = 4
LEAST_MS = 1e-6


@dataclass(frozen=True)
class Correction:
    """`coefficients`: those of `terms`, in its order. `left_out`: relative error of each network fitted on, by a fit without it."""

    coefficients: tuple[float, ...]
    freedom: float
    left_out: tuple[float, ...]

    def latency_ms(self, terms: np.ndarray) -> np.ndarray:
        """(N, T) of `terms` -> (N,), each row by itself."""
        return np.asarray(np.maximum((terms * np.array(self.coefficients)).sum(axis=1), LEAST_MS))


def terms(kernels: Sequence[Kernel], times_ms: Sequence[float]) -> list[float]:
    """Of one network: the sum of its kernels' ms, that of each of KINDS, the number of kernels, and 1. They add up over parts of a
    network, except the last."""
    by_kind = [0.0] * len(KINDS)
    for kernel, ms in zip(kernels, times_ms, strict=True):
        name = family(kernel)
        for i, names in enumerate(KINDS):
            by_kind[i] += ms * (name in names)
    return [float(sum(times_ms)), *by_kind, float(len(kernels)), 1.0]


def fit(terms: np.ndarray, measured_ms: np.ndarray, groups: Sequence[object] | None = None) -> Correction:
    """(N, T) rows of `terms` and the (N,) latencies of these networks. `groups` are left out together (networks of one architecture);
    without, each network alone. Deterministic. With fewer networks than terms the ridge decides.

    Raises ValueError unless there are as many latencies as rows, at least one, all of them > 0.
    """
    if not len(measured_ms) or len(terms) != len(measured_ms) or not (measured_ms > 0).all():
        raise ValueError(f"{len(terms)} networks need as many latencies > 0, but {measured_ms} arrived")
    labels = [groups[i] if groups is not None else i for i in range(len(terms))]
    free_terms = terms.shape[1]
    freedoms = FREEDOMS if len(set(labels)) > 2 * free_terms else FREEDOMS[:1]
    best, errors = 0.0, np.empty(0)
    for freedom in freedoms:
        now = _left_out(terms, measured_ms, labels, freedom)
        if (
            not len(errors)
            or np.minimum(np.abs(now), CAP).mean() < CLEARLY_BETTER * np.minimum(np.abs(errors), CAP).mean()
        ):
            best, errors = freedom, now
    return Correction(tuple(map(float, _solve(terms, measured_ms, best))), best, tuple(map(float, errors)))


def _left_out(terms: np.ndarray, measured_ms: np.ndarray, labels: Sequence[object], freedom: float) -> np.ndarray:
    errors = np.empty(len(terms))
    for label in dict.fromkeys(labels):
        out = np.array([each == label for each in labels])
        kept = ~out if not out.all() else out
        errors[out] = terms[out] @ _solve(terms[kept], measured_ms[kept], freedom) / measured_ms[out] - 1
    return errors


def _solve(terms: np.ndarray, measured_ms: np.ndarray, freedom: float) -> np.ndarray:
    """Ridge on relative errors, with weights that fall for outliers (Holland & Welsch, 1977, Cauchy's)."""
    design = terms / measured_ms[:, None]
    scale = np.maximum(np.abs(design).max(axis=0), 1e-12)
    draw = np.full(terms.shape[1], 1e-4)  # nearly nothing: only so that few networks have one answer
    draw[1 : 1 + len(KINDS)] = (NOISE / max(freedom, 1e-6) / scale[1 : 1 + len(KINDS)]) ** 2
    weight = np.ones(len(design))
    coefficients = np.zeros(terms.shape[1])
    for _ in range(ROUNDS):
        scaled = design / scale
        gram = (scaled * weight[:, None]).T @ scaled
        coefficients = np.linalg.solve(gram + np.diag(draw), (scaled * weight[:, None]).sum(axis=0)) / scale
        weight = 1 / (1 + ((1 - design @ coefficients) / OUTLIER) ** 2)
    return np.asarray(coefficients)
