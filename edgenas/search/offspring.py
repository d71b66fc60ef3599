"""New subnets of the best that were evaluated: each crosses two of them, mutates, and stays within what evidence left of the space."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgenas.search.evaluations import Candidate
from edgenas.search.strategy import Problem
from edgenas.spaces.space import Subnet

CHILDREN = 256
PARENTS_SHARE = 4  # the best quarter


def offspring(problem: Problem, evaluated: Iterable[Candidate], rng: np.random.Generator) -> list[Subnet]:
    """CHILDREN of them, whatever their latency; none while nothing was evaluated."""
    space = problem.space
    best = sorted(evaluated, key=lambda candidate: -candidate.score)
    if not best:
        return []
    parents = [candidate.subnet for candidate in best[: max(2, len(best) // PARENTS_SHARE)]]
    rate = max(problem.rule.mutation_rate, 1 / len(space.radix()))
    children = []
    for a, b in rng.integers(len(parents), size=(CHILDREN, 2)):
        child = space.mutate(space.crossover(parents[a], parents[b], rng), rng, rate)
        children.append(problem.narrowing.project(space, child, rng))
    return children
