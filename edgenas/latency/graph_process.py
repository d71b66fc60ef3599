"""A Gaussian process over features of whole networks: a sum of costs, what the graph does to it, and a smooth rest.

In units of the mean latency, of standardised features: a linear part with a wide prior for the work, one with a narrow prior for
the structure, a Matern 5/2 over both, and noise in proportion to the latency. How large the latter four are follows from the data
(the most probable values under log-normal priors), so 20 networks suffice for a sum and 300 show the rest. Networks that a fit
without them puts far off get more noise of their own. Rasmussen & Williams, GPML, 2006, ch. 2 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

OFFSET, WORK = (
    1.0,
    1.0,
)  # prior standard deviations: of the constant; of all the work together, per standard deviation of a feature
_CENTRE = np.log([0.05, 0.04, 1.5, 0.04])  # structure, smooth part, its length, noise
_SPREAD = np.array([0.8, 0.8, 0.5, 0.4])
_JITTER = 1e-6
OUTLIER = 3.0  # standard deviations
TUNED_ON = 300  # rows that the hyperparameters are fitted on


@dataclass(frozen=True)
class Split:
    """Standardised features, work and structure apart, each (N, F)."""

    work: np.ndarray
    structure: np.ndarray

    def rows(self, which: np.ndarray | slice) -> Split:
        return Split(self.work[which], self.structure[which])

    def __len__(self) -> int:
        return len(self.work)


@dataclass(frozen=True)
class GraphProcess:
    """`theta`: logarithms, in _CENTRE's order. Of each network that it is conditioned on, in units of `scale_ms`: `weights` (N,), what
    it adds to a prediction per covariance, and `diagonal` (N,), the variance of its noise."""

    x: Split
    weights: np.ndarray
    diagonal: np.ndarray
    theta: np.ndarray
    scale_ms: float

    @cached_property
    def inverse(self) -> np.ndarray:
        inverse = np.linalg.inv(_with_noise(covariance(self.x, self.x, self.theta), self.diagonal))
        return np.asarray((inverse + inverse.T) / 2)

    def predict(self, x: Split) -> tuple[np.ndarray, np.ndarray]:
        """-> (N,) ms and the standard deviation of a measurement there."""
        between = covariance(x, self.x, self.theta)
        mean = 1 + (between * self.weights).sum(axis=1)
        explained = np.einsum("ij,jk,ik->i", between, self.inverse, between)
        left = np.maximum(variances(x, self.theta) - explained, 0.0)
        noise = np.exp(2 * self.theta[3]) * mean**2
        return mean * self.scale_ms, np.sqrt(left + noise) * self.scale_ms


@dataclass(frozen=True)
class FittedProcess:
    """A process and what it was fitted to: `measured` (N,) in units of its scale; `noise` (N,), each network's variance over that of
    an ordinary one of its latency."""

    process: GraphProcess
    measured: np.ndarray
    noise: np.ndarray
    log_evidence: float

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each network by a fit without it: relative error of the prediction, and its relative standard deviation."""
        diagonal = np.diag(self.process.inverse)
        return -self.process.weights / diagonal / self.measured, diagonal**-0.5 / self.measured

    def of(self, which: np.ndarray) -> GraphProcess:
        """The process conditioned on some of the networks only."""
        kept, measured = self.process, self.measured[which]
        return _condition(kept.x.rows(which), measured, self.noise[which], kept.theta, kept.scale_ms).process


def fit(x: Split, y_ms: np.ndarray) -> FittedProcess:
    """Deterministic. `y_ms` are finite and above zero."""
    scale = float(y_ms.mean())
    noise = np.ones(len(y_ms))
    found = _tuned(x, y_ms / scale, noise, scale)
    error, deviation = found.left_out()
    apart = np.abs(error) / deviation
    apart /= max(1.0, float(np.median(apart)) / 0.6745)
    if (apart > OUTLIER).any():
        found = _tuned(x, y_ms / scale, np.maximum(1.0, (apart / OUTLIER) ** 2), scale)
    return found


def _tuned(x: Split, measured: np.ndarray, noise: np.ndarray, scale_ms: float) -> FittedProcess:
    kept = np.arange(len(measured))
    if len(kept) > TUNED_ON:
        kept = np.linspace(0, len(measured) - 1, TUNED_ON).astype(int)
    theta = _most_probable(x.rows(kept), measured[kept], noise[kept])
    return _condition(x, measured, noise, theta, scale_ms)


def _condition(x: Split, measured: np.ndarray, noise: np.ndarray, theta: np.ndarray, scale_ms: float) -> FittedProcess:
    diagonal = np.exp(2 * theta[3]) * measured**2 * noise
    matrix = _with_noise(covariance(x, x, theta), diagonal)
    weights = np.linalg.solve(matrix, measured - 1)
    evidence = _log_evidence(matrix, measured - 1) + _log_prior(theta)
    return FittedProcess(GraphProcess(x, weights, diagonal, theta, scale_ms), measured, noise, evidence)


def covariance(one: Split, other: Split, theta: np.ndarray) -> np.ndarray:
    structure, smooth, length, _ = np.exp(theta)
    work, shape, distance = _parts(one, other)
    return _combined(work, shape, distance, structure, smooth, length)


def variances(x: Split, theta: np.ndarray) -> np.ndarray:
    """The diagonal of covariance(x, x)."""
    structure, smooth, _, _ = np.exp(theta)
    work = OFFSET**2 + WORK**2 * _mean_square(x.work)
    return np.asarray(work + structure**2 * _mean_square(x.structure) + smooth**2)


def _parts(one: Split, other: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance of the sum of costs, similarity of the structure, squared distance."""
    works, shapes = _width(one.work), _width(one.structure)
    work = one.work @ other.work.T / works
    shape = one.structure @ other.structure.T / shapes
    near = _mean_square(one.work)[:, None] + _mean_square(other.work) - 2 * work
    alike = _mean_square(one.structure)[:, None] + _mean_square(other.structure) - 2 * shape
    return OFFSET**2 + WORK**2 * work, shape, np.maximum(near + alike, 0.0) / 2


def _combined(
    work: np.ndarray, shape: np.ndarray, distance: np.ndarray, structure: float, smooth: float, length: float
) -> np.ndarray:
    root = np.sqrt(5 * distance) / length
    return np.asarray(work + structure**2 * shape + smooth**2 * (1 + root + root**2 / 3) * np.exp(-root))


def _with_noise(matrix: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    matrix[np.diag_indices(len(matrix))] += diagonal + _JITTER
    return matrix


def _log_evidence(matrix: np.ndarray, centred: np.ndarray) -> float:
    lower = np.linalg.cholesky(matrix)
    return float(-0.5 * centred @ np.linalg.solve(matrix, centred) - np.log(np.diag(lower)).sum())


def _log_prior(theta: np.ndarray) -> float:
    return float(-0.5 * (((theta - _CENTRE) / _SPREAD) ** 2).sum())


def _most_probable(x: Split, measured: np.ndarray, noise: np.ndarray) -> np.ndarray:
    from scipy.optimize import minimize

    work, shape, distance = _parts(x, x)

    def loss(theta: np.ndarray) -> float:
        structure, smooth, length, level = np.exp(theta)
        matrix = _combined(work, shape, distance, structure, smooth, length)
        matrix = _with_noise(matrix, level**2 * measured**2 * noise)
        return -_log_evidence(matrix, measured - 1) - _log_prior(theta)

    bounds = list(zip(_CENTRE - 3 * _SPREAD, _CENTRE + 3 * _SPREAD, strict=True))
    return np.asarray(minimize(loss, _CENTRE, method="L-BFGS-B", bounds=bounds, options={"maxiter": 30}).x)


def prior_theta() -> np.ndarray:
    """Before anything was measured: so few networks are chosen with it that the smooth part has little to say."""
    return np.asarray(_CENTRE + np.log([1.0, 0.5, 1.0, 1.0]))


def _mean_square(x: np.ndarray) -> np.ndarray:
    return np.asarray((x * x).sum(axis=1) / _width(x))


def _width(x: np.ndarray) -> int:
    return max(1, x.shape[1])
