"""A Gaussian process in numpy, small and quick to start (scikit-learn and scipy take longer to import than this to fit).

The covariance is a smooth part over all features, a Matern 3/2 with a length scale each, and a rough one along a single feature
(an exponential, so: steps), which holds among kernels that are alike otherwise. Length scales and variances are the most probable ones
(MAP) under log-normal priors around what is handed in, found by iRprop- (Igel & Huesken, 2003) on analytic gradients; with few points
the priors decide. Rasmussen & Williams, GPML, 2006, ch. 2, 4 and 5.
"""

from __future__ import annotations

import numpy as np

STEPS = 22
TUNED_ON = 160  # points that the hyperparameters are fitted on
NEIGHBOURS = 64  # points that a standard deviation is worked out from
MOST_POINTS = 1200  # beyond them a matrix takes too long; the points are thinned out evenly
_SMOOTH, _NOISE, _STEPS, _STEP_LENGTH, _ALIKE = range(5)
_CENTRE = np.log([0.25, 0.03, 0.05, 0.12, 3.0])  # standard deviations of the three parts; length of a step; how alike
_SPREAD = np.array([1.0, 1.0, 1.0, 0.7, 0.7])
_LENGTH_SPREAD = 0.9


class GaussianProcess:
    """Of `y` (N,) at `x` (N, F); `lengths` (F,) is the prior of the length scales and `rough` the feature with the steps. Mean zero far
    from all points."""

    def __init__(self, x: np.ndarray, y: np.ndarray, lengths: np.ndarray, rough: int) -> None:
        if len(x) > MOST_POINTS:
            kept = np.linspace(0, len(x) - 1, MOST_POINTS).astype(int)
            x, y = x[kept], y[kept]
        self._rough, self._prior = rough, lengths
        self._theta = self._tuned(x, y)
        self._smooth = x / self._lengths
        self._alike = x / self._alike_lengths
        self._along = x[:, rough] / np.exp(self._theta[_STEP_LENGTH])
        near = _matern(_squared_distances(self._smooth))[0]
        alike = _matern(_squared_distances(self._alike))[0]
        smooth, noise, steps = self._variances
        self._points = smooth * near + steps * np.exp(-np.abs(self._along[:, None] - self._along)) * alike
        self._points[np.diag_indices(len(x))] = smooth + steps + noise
        self._weights = np.linalg.solve(self._points, y)

    def predict(self, row: np.ndarray) -> tuple[float, float]:
        """(F,) -> mean and standard deviation of a new measurement there; the latter from the NEIGHBOURS closest points, which is
        a little more than from all. Of this row alone: a product over several rows would give last bits that depend on how many."""
        covariance = self._covariance(row)
        smooth, noise, steps = self._variances
        close = np.argsort(-covariance, kind="stable")[:NEIGHBOURS]
        explained = covariance[close] @ np.linalg.solve(self._points[np.ix_(close, close)], covariance[close])
        left = max(float(smooth + steps - explained), 0.0) + float(noise)
        return float((covariance * self._weights).sum()), float(np.sqrt(left))

    @property
    def _variances(self) -> np.ndarray:
        return np.asarray(np.exp(2 * self._theta[[_SMOOTH, _NOISE, _STEPS]]))

    @property
    def _lengths(self) -> np.ndarray:
        return np.asarray(np.exp(self._theta[len(_CENTRE) :]))

    @property
    def _alike_lengths(self) -> np.ndarray:
        return np.asarray(self._prior * np.exp(self._theta[_ALIKE]))

    def _covariance(self, row: np.ndarray) -> np.ndarray:
        """(F,) -> (N,) with each point."""
        smooth, _, steps = self._variances
        near = _matern(((self._smooth - row / self._lengths) ** 2).sum(axis=1))[0]
        alike = _matern(((self._alike - row / self._alike_lengths) ** 2).sum(axis=1))[0]
        apart = np.abs(self._along - row[self._rough] / np.exp(self._theta[_STEP_LENGTH]))
        return np.asarray(smooth * near + steps * np.exp(-apart) * alike)

    def _tuned(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The five of _CENTRE, then the length scales; all as logarithms."""
        centre = np.concatenate([_CENTRE, np.log(self._prior)])
        spread = np.concatenate([_SPREAD, np.full(x.shape[1], _LENGTH_SPREAD)])
        if len(x) > TUNED_ON:
            kept = np.linspace(0, len(x) - 1, TUNED_ON).astype(int)
            x, y = x[kept], y[kept]
        varies = np.flatnonzero(np.ptp(x, axis=0) > 1e-9)  # the others' length scales stay at their priors
        squares = (x.T[varies, :, None] - x.T[varies, None, :]) ** 2
        free = np.concatenate([np.arange(len(_CENTRE)), len(_CENTRE) + varies])
        apart = np.abs(x[:, None, self._rough] - x[None, :, self._rough])
        prior_square = np.tensordot(1 / self._prior[varies] ** 2, squares, axes=1)

        def slope(theta: np.ndarray) -> np.ndarray:
            """d(-log posterior) / d(theta[free])"""
            smooth, noise, steps = np.exp(2 * theta[[_SMOOTH, _NOISE, _STEPS]])
            inverse_squares = np.exp(-2 * theta[free[len(_CENTRE) :]])
            near, near_slope = _matern(np.tensordot(inverse_squares, squares, axes=1))
            alike_square = prior_square * np.exp(-2 * theta[_ALIKE])
            alike, alike_slope = _matern(alike_square)
            along = apart / np.exp(theta[_STEP_LENGTH])
            step = np.exp(-along)
            covariance = smooth * near + steps * step * alike
            covariance[np.diag_indices(len(y))] += noise
            inverse = np.linalg.inv(covariance)
            weights = inverse @ y
            half = (inverse - np.outer(weights, weights)) / 2
            stepped = half * step
            own = [
                2 * smooth * (half * near).sum(),
                2 * noise * np.trace(half),
                2 * steps * (stepped * alike).sum(),
                steps * (stepped * alike * along).sum(),
                -2 * steps * (stepped * alike_slope * alike_square).sum(),
            ]
            lengths = -2 * smooth * inverse_squares * np.tensordot(squares, half * near_slope, axes=2)
            return np.concatenate([own, lengths]) + (theta[free] - centre[free]) / spread[free] ** 2

        theta, step_size, before = centre.copy(), np.full(len(free), 0.15), np.zeros(len(free))
        for _ in range(STEPS):
            now = slope(theta)
            agree = now * before
            step_size = np.clip(
                np.where(agree > 0, 1.3 * step_size, np.where(agree < 0, 0.5 * step_size, step_size)), 1e-3, 0.6
            )
            now = np.where(agree < 0, 0.0, now)
            theta[free] = np.clip(
                theta[free] - np.sign(now) * step_size, (centre - 4 * spread)[free], (centre + 4 * spread)[free]
            )
            before = now
        return theta


def _squared_distances(x: np.ndarray) -> np.ndarray:
    """(N, F) -> (N, N)"""
    norms = (x * x).sum(axis=1)
    return np.maximum(norms[:, None] + norms - 2 * x @ x.T, 0.0)


def _matern(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matern 3/2 of squared distances, and its derivative by them."""
    distance = np.sqrt(3 * squares)
    decay = np.exp(-distance)
    return (1 + distance) * decay, -1.5 * decay
