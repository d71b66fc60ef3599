"""Narrowing a space from evidence: options that evaluated subnets show to be worse are no longer proposed.

A ridge regression of accuracy on the genes (each option an indicator) and on log latency, over random feasible subnets, tells what
an option is worth at equal latency (the idea of evolving search spaces: Ci et al., ICCV 2021). An option is dropped if it is
worse than its gene's best one by more than twice the uncertainty of their difference and by more than `MIN_LOSS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.search.evaluations import Candidate
from edgenas.spaces.space import SearchSpace, Subnet

MIN_LOSS = 0.004  # accuracy; smaller differences are left to the search
RIDGE = 1.0


@dataclass(frozen=True)
class Narrowing:
    """`allowed[g]` holds the options of gene g that are still proposed."""

    allowed: tuple[tuple[int, ...], ...]

    def project(self, space: SearchSpace, subnet: Subnet, rng: np.random.Generator) -> Subnet:
        """The subnet with each gene that isn't allowed replaced by a random allowed option."""
        allowed = self.allowed
        genes = tuple(g if g in allowed[i] else int(rng.choice(allowed[i])) for i, g in enumerate(subnet.genome))
        return subnet if genes == subnet.genome else space.subnet(genes)

    def dropped(self, space: SearchSpace) -> int:
        return sum(space.radix()) - sum(map(len, self.allowed))


def everything(space: SearchSpace) -> Narrowing:
    return Narrowing(tuple(tuple(range(count)) for count in space.radix()))


def narrow(space: SearchSpace, evidence: Sequence[Candidate]) -> Narrowing:
    """What is left of the space after this evidence; never an empty gene."""
    radix = space.radix()
    offsets = np.concatenate([[0], np.cumsum(radix)])
    design = np.zeros((len(evidence), offsets[-1] + 1))
    for row, candidate in enumerate(evidence):
        design[row, offsets[:-1] + np.array(candidate.subnet.genome)] = 1
        design[row, -1] = np.log(candidate.latency_ms)
    design -= design.mean(axis=0)
    scores = np.array([candidate.score for candidate in evidence])
    inverse = np.linalg.inv(design.T @ design + RIDGE * np.eye(design.shape[1]))
    worth = inverse @ design.T @ (scores - scores.mean())
    residual = scores - scores.mean() - design @ worth
    freedom = max(1.0, len(scores) - np.trace(design @ inverse @ design.T))
    covariance = inverse * float(residual @ residual) / freedom
    allowed = []
    for gene, count in enumerate(radix):
        span = np.arange(offsets[gene], offsets[gene] + count)
        best = span[np.argmax(worth[span])]
        loss = worth[best] - worth[span]
        spread = np.sqrt(np.maximum(covariance[span, span] + covariance[best, best] - 2 * covariance[span, best], 0))
        kept = tuple(int(i) for i in np.flatnonzero(loss <= np.maximum(2 * spread, MIN_LOSS)))
        allowed.append(kept)
    return Narrowing(tuple(allowed))
