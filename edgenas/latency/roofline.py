"""A roofline that adds up: milliseconds as a sum of kinds of work, each at a rate of its own and none of them negative.

(Williams et al., Roofline, CACM 2009, take the maximum of compute and traffic; on small kernels the sum fits better, and it never
falls when a kernel grows.) Fitted on relative errors, since kernels span four decades.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 4
OUTLIER = 0.2  # logarithmic error from which on a kernel counts less


def fit(work: np.ndarray, ms: np.ndarray) -> np.ndarray:
    """(N, T) work >= 0 of N kernels and their (N,) ms > 0 -> (T,) ms per unit of work, each >= 0 and at least one > 0."""
    scale = np.maximum(work.max(axis=0), 1e-12)
    design = work / scale / ms[:, None]
    weight = np.ones(len(ms))
    coefficients = np.zeros(work.shape[1])
    for _ in range(ROUNDS):
        coefficients = _non_negative(design * weight[:, None], weight)
        error = np.abs(np.log(np.maximum((design * coefficients).sum(axis=1), 1e-9)))
        weight = 1 / (1 + error / OUTLIER)
    if not coefficients.any():
        coefficients[0] = 1.0
    # the median is right: what is left over is judged on a logarithmic scale
    ratio = float(np.exp(np.median(-np.log(np.maximum((design * coefficients).sum(axis=1), 1e-9)))))
    return np.asarray(coefficients * ratio / scale)


def log_ms(coefficients: np.ndarray, work: np.ndarray) -> np.ndarray:
    """(N, T) work -> (N,) logarithms of ms, each row by itself."""
    return np.asarray(np.log(np.maximum((work * coefficients).sum(axis=1), 1e-9)))


def _non_negative(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """min |design x - target|^2 over x >= 0, by Lawson and Hanson's active set (Solving Least Squares Problems, 1974, ch. 23) on the
    normal equations."""
    gram, right = design.T @ design, design.T @ target
    gram[np.diag_indices(len(right))] += 1e-10 * max(float(np.trace(gram)), 1e-30)
    x, active = np.zeros(len(right)), np.zeros(len(right), bool)
    for _ in range(3 * len(right)):
        gain = np.where(active, 0.0, right - gram @ x)
        if gain.max() <= 1e-9 * max(float(np.abs(right).max()), 1e-30):
            break
        active[gain.argmax()] = True
        while active.any():
            best = np.zeros(len(right))
            best[active] = np.linalg.solve(gram[np.ix_(active, active)], right[active])
            if best[active].min() > 0:
                x = best
                break
            falling = active & (best <= 0)
            step = float((x[falling] / (x[falling] - best[falling])).min()) if (x[falling] > 0).all() else 0.0
            x = x + step * (best - x)
            active &= ~(falling & (x <= 1e-15 + 1e-12 * x.max()))
            x[~active] = 0.0
    return x
