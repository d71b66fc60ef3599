"""A Gaussian process over features of whole networks: a sum of costs, what the graph does to it, and a smooth rest.

In units of the mean latency, of standardised features: a linear part with a wide prior for the work, one with a narrow prior for
the structure, a Matern 5/2 over both, and noise in proportion to the latency. How large the latter four are follows from the data
(the most probable values under log-normal priors), so 20 networks suffice for a sum and 300 show the rest. Networks that a fit
without them puts far off get more noise of their own. Rasmussen & Williams, GPML, 2006, ch. 2 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """`theta`: logarithms, in _CENTRE's order. `noise` (N,): each row's variance over that of an ordinary one."""

    x: Split
    y_ms: np.ndarray
    noise: np.ndarray
    theta: np.ndarray
    log_evidence: float
    _weights: np.ndarray
    _inverse: np.ndarray

    @property
    def scale_ms(self) -> float:
        return float(self.y_ms.mean())

    def predict(self, x: Split) -> tuple[np.ndarray, np.ndarray]:
        """-> (N,) ms and the standard deviation of a measurement there."""
        between = covariance(x, self.x, self.theta)
        mean = 1 + (between * self._weights).sum(axis=1)
        explained = np.einsum("ij,jk,ik->i", between, self._inverse, between)
        left = np.maximum(variances(x, self.theta) - explained, 0.0)
        noise = np.exp(2 * self.theta[3]) * mean**2
        return mean * self.scale_ms, np.sqrt(left + noise) * self.scale_ms

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each network by a fit without it: relative error of the prediction, and its relative standard deviation."""
        diagonal = np.diag(self._inverse)
        measured = self.y_ms / self.scale_ms
        return -self._weights / diagonal / measured, diagonal**-0.5 / measured


def fit(x: Split, y_ms: np.ndarray) -> GraphProcess:
    """Deterministic. `y_ms` are finite and above zero."""
    process = condition(x, y_ms, np.ones(len(y_ms)), None)
    error, deviation = process.left_out()
    apart = np.abs(error) / deviation
    apart /= max(1.0, float(np.median(apart)) / 0.6745)
    if (apart > OUTLIER).any():
        process = condition(x, y_ms, np.maximum(1.0, (apart / OUTLIER) ** 2), None)
    return process


def condition(x: Split, y_ms: np.ndarray, noise: np.ndarray, theta: np.ndarray | None) -> GraphProcess:
    """The process given these networks, with `theta` or with the most probable one."""
    measured = y_ms / y_ms.mean()
    if theta is None:
        kept = np.arange(len(y_ms))
        if len(kept) > TUNED_ON:
            kept = np.linspace(0, len(y_ms) - 1, TUNED_ON).astype(int)
        theta = _most_probable(x.rows(kept), measured[kept], noise[kept])
    matrix = _with_noise(covariance(x, x, theta), measured, noise, theta)
    inverse = np.linalg.inv(matrix)
    centred = measured - 1
    evidence = _log_evidence(matrix, centred) + _log_prior(theta)
    return GraphProcess(x, y_ms, noise, theta, evidence, inverse @ centred, (inverse + inverse.T) / 2)


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


def _with_noise(matrix: np.ndarray, measured: np.ndarray, noise: np.ndarray, theta: np.ndarray) -> np.ndarray:
    matrix[np.diag_indices(len(matrix))] += np.exp(2 * theta[3]) * measured**2 * noise + _JITTER
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
        structure, smooth, length, _ = np.exp(theta)
        matrix = _with_noise(_combined(work, shape, distance, structure, smooth, length), measured, noise, theta)
        return -_log_evidence(matrix, measured - 1) - _log_prior(theta)

    bounds = list(zip(_CENTRE - 3 * _SPREAD, _CENTRE + 3 * _SPREAD, strict=True))
    return np.asarray(minimize(loss, _CENTRE, method="L-BFGS-B", bounds=bounds, options={"maxiter": 30}).x)


def prior_theta() -> np.ndarray:
    """Before anything was measured."""
    return _CENTRE.copy()


def _mean_square(x: np.ndarray) -> np.ndarray:
    return np.asarray((x * x).sum(axis=1) / _width(x))


def _width(x: np.ndarray) -> int:
    return max(1, x.shape[1])
