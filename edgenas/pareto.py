"""Dominance and hypervolume for points to be minimised in every coordinate."""

from __future__ import annotations

import numpy as np


def non_dominated(points: np.ndarray) -> np.ndarray:
    """(N, 2) -> indices of the Pareto front, by rising first coordinate; of equal points the first one."""
    front = []
    best = np.inf
    for i in np.lexsort((points[:, 1], points[:, 0])):
        if points[i, 1] < best:
            front.append(i)
            best = points[i, 1]
    return np.array(front, int)


def hypervolume(points: np.ndarray, reference: tuple[float, float]) -> float:
    """Area that (N, 2) points dominate up to `reference`; points beyond it add nothing."""
    inside = points[(points < np.asarray(reference)).all(axis=1)]
    if not len(inside):
        return 0.0
    front = inside[non_dominated(inside)]
    edges = np.append(front[1:, 0], reference[0])
    return float(((edges - front[:, 0]) * (reference[1] - front[:, 1])).sum())
