"""What evaluated subnets say of others: a ridge regression of the score on the genes, each option an indicator, and on latency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgenas.search.evaluations import Candidate

RIDGE = 1.0


class GeneRegression:
    """`radix`: how many options each gene has. At least one candidate."""

    def __init__(self, radix: Sequence[int], evidence: Sequence[Candidate]) -> None:
        self._offsets = np.concatenate([[0], np.cumsum(radix)])
        design = self._design(np.array([c.subnet.genome for c in evidence]), np.array([c.latency_ms for c in evidence]))
        scores = np.array([c.score for c in evidence])
        self._centre, self._mean = design.mean(axis=0), scores.mean()
        design = design - self._centre
        count, options = design.shape
        if count < options:  # the same, with fewer equations
            gram = design @ design.T + RIDGE * np.eye(count)
            self._worth = design.T @ np.linalg.solve(gram, scores - self._mean)
        else:
            gram = design.T @ design + RIDGE * np.eye(options)
            self._worth = np.linalg.solve(gram, design.T @ (scores - self._mean))

    def predict(self, genomes: np.ndarray, ms: np.ndarray) -> np.ndarray:
        """(N, genes) and (N,) -> (N,) scores."""
        return np.asarray(self._mean + (self._design(genomes, ms) - self._centre) @ self._worth)

    def _design(self, genomes: np.ndarray, ms: np.ndarray) -> np.ndarray:
        design = np.zeros((len(genomes), self._offsets[-1] + 1))
        design[np.arange(len(genomes))[:, None], self._offsets[:-1] + genomes] = 1
        design[:, -1] = np.log(ms)
        return design
