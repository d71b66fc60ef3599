"""A Gaussian process that learns accuracies from those that were evaluated, and says how sure it is of the others.

The covariance is a Matern 5/2 whose squared distance is the sum over groups of features of their mean squared difference, each group
with its own length scale. These, the process's variance and that of the noise are the most probable ones (MAP) under
log-normal priors, found by iRprop- (Igel & Huesken, 2003) on analytic gradients; with few evaluations the priors decide. The priors are
those of any function of standardised features and know nothing of networks. Rasmussen & Williams, GPML, 2006, ch. 2, 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS = 25
FAR_BELOW = 2.5  # interquartile ranges below the median: how much worse than that a score is makes no difference
_CENTRE = np.log([1.0, 0.15])  # standard deviations: of the process and of the noise, in those of the scores
_SPREAD = np.array([0.5, 0.7])
_LENGTH, _LENGTH_SPREAD = np.log(1.5), 0.7
_JITTER = 1e-8


class AccuracyModel:
    """Of `scores` (N,) at `x` (N, F), whose columns are standardised; `groups` are columns that share a length scale. All that it says
    is in `units`."""

    def __init__(self, x: np.ndarray, scores: np.ndarray, groups: Sequence[np.ndarray]) -> None:
        low, middle, high = np.percentile(scores, [25, 50, 75])
        self._least = middle - FAR_BELOW * (high - low) if high > low else -np.inf
        kept = np.maximum(scores, self._least)
        self._mean, self._std = float(kept.mean()), float(kept.std()) or 1.0
        self.x, self.y = x, self.units(scores)
        self._theta = _most_probable(_group_distances(x, groups), self.y)
        self._scale = np.ones(x.shape[1])  # of each column, so that all groups together make one distance
        for group, length in zip(groups, np.exp(self._theta[2:]), strict=True):
            self._scale[group] = 1 / (length * np.sqrt(len(group)))
        covariance = self.covariance(x, x)
        covariance[np.diag_indices(len(x))] += self.noise
        self._lower = np.linalg.cholesky(covariance)
        self._weights = np.linalg.solve(self._lower.T, np.linalg.solve(self._lower, self.y))

    @property
    def noise(self) -> float:
        return float(np.exp(2 * self._theta[1])) + _JITTER

    def units(self, scores: np.ndarray) -> np.ndarray:
        """Standard deviations from the mean of the evaluated, where none is far below them."""
        return np.asarray((np.maximum(scores, self._least) - self._mean) / self._std)

    def belief(self, x: np.ndarray) -> Belief:
        """At `x` (M, F)."""
        between = self.covariance(x, self.x)
        return Belief(self, x, between @ self._weights, np.linalg.solve(self._lower, between.T))

    def covariance(self, x: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(M, F) and (N, F) -> (M, N)."""
        near, _ = _matern(_squared_distances(x * self._scale, other * self._scale))
        return np.asarray(self.variance * near)

    @property
    def variance(self) -> float:
        return float(np.exp(2 * self._theta[0]))


class Belief:
    """`mean` and `deviation` (M,) of the true score at each of some places.

    What is asked for next is believed to come out at its mean (the kriging believer: Ginsbourger et al., 2010). That changes no
    mean, and only makes the model surer of what is like it.
    """

    def __init__(self, model: AccuracyModel, x: np.ndarray, mean: np.ndarray, explained: np.ndarray) -> None:
        self._model, self._x, self.mean, self._explained = model, x, mean, explained
        self._left = model.variance - (explained**2).sum(axis=0)

    @property
    def deviation(self) -> np.ndarray:
        return np.asarray(np.sqrt(np.maximum(self._left, 1e-10)))

    def ask(self, which: int) -> None:
        known = self._explained[:, which]
        between = self._model.covariance(self._x, self._x[[which]])[:, 0]
        own = max(float(between[which] - known @ known), 0.0) + self._model.noise
        row = (between - known @ self._explained) / np.sqrt(own)
        self._explained = np.vstack([self._explained, row])
        self._left = self._left - row**2


def _group_distances(x: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """(N, F) -> (groups, N, N): mean squared differences."""
    return np.stack([_squared_distances(x[:, group], x[:, group]) / len(group) for group in groups])


def _squared_distances(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(M, F) and (N, F) -> (M, N)."""
    squares = (x * x).sum(axis=1)[:, None] + (other * other).sum(axis=1) - 2 * x @ other.T
    return np.asarray(np.maximum(squares, 0.0))


def _most_probable(distances: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Logarithms of the standard deviations of _CENTRE, then of each group's length scale."""
    centre = np.concatenate([_CENTRE, np.full(len(distances), _LENGTH)])
    spread = np.concatenate([_SPREAD, np.full(len(distances), _LENGTH_SPREAD)])
    theta, step, before = centre.copy(), np.full(len(centre), 0.15), np.zeros(len(centre))
    for _ in range(STEPS):
        variance, noise = np.exp(2 * theta[:2])
        weights = np.exp(-2 * theta[2:])
        near, slope = _matern(np.tensordot(weights, distances, axes=1))
        covariance = variance * near
        covariance[np.diag_indices(len(y))] += noise + _JITTER
        inverse = np.linalg.inv(covariance)
        alpha = inverse @ y
        half = (inverse - np.outer(alpha, alpha)) / 2  # d(-log likelihood) / d(covariance)
        lengths = -2 * variance * weights * np.tensordot(distances, half * slope, axes=2)
        own = [2 * variance * (half * near).sum(), 2 * noise * np.trace(half)]
        now = np.concatenate([own, lengths]) + (theta - centre) / spread**2
        agree = now * before
        step = np.clip(np.where(agree > 0, 1.3 * step, np.where(agree < 0, 0.5 * step, step)), 1e-3, 0.6)
        now = np.where(agree < 0, 0.0, now)
        theta = np.clip(theta - np.sign(now) * step, centre - 3 * spread, centre + 3 * spread)
        before = now
    return theta


def _matern(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matern 5/2 of squared distances, and its derivative by them."""
    distance = np.sqrt(5 * squares)
    decay = np.exp(-distance)
    return (1 + distance + distance * distance / 3) * decay, -5 / 6 * (1 + distance) * decay
