"""How much better than what was evaluated another subnet may be expected to be, whose accuracy is known as a normal distribution and
whose latency is known.

Expected improvement: Jones et al., 1998. Expected hypervolume improvement (Emmerich et al., 2006) is a sum of those where one of the
two objectives is known: over each stretch of latencies that the subnet would be in time for, that over the best of the front there.
"""

from __future__ import annotations

import numpy as np

from edgenas.pareto import non_dominated


def expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float | np.ndarray) -> np.ndarray:
    """E[max(score - best, 0)] for scores ~ N(mean, deviation^2); shapes broadcast. Higher scores are better."""
    from scipy.special import ndtr

    z = (mean - best) / deviation
    return np.asarray((mean - best) * ndtr(z) + deviation * np.exp(-z * z / 2) / np.sqrt(2 * np.pi))


def expected_hypervolume_improvement(
    mean: np.ndarray, deviation: np.ndarray, ms: np.ndarray, known: np.ndarray, reference: tuple[float, float]
) -> np.ndarray:
    """(M,) each -> (M,). `known` (N, 2): ms and score of what was evaluated; `reference`: the most ms and the lowest score that
    count."""
    inside = known[(known[:, 0] < reference[0]) & (known[:, 1] > reference[1])]
    front = inside[non_dominated(inside * (1, -1))]
    edges = np.concatenate([[0.0], front[:, 0], [reference[0]]])
    levels = np.concatenate([[reference[1]], front[:, 1]])
    stretches = np.maximum(edges[1:] - np.maximum(edges[:-1], ms[:, None]), 0)  # (M, levels)
    found = expected_improvement(mean[:, None], deviation[:, None], levels)
    return np.asarray((stretches * found).sum(axis=1))
