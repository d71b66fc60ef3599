"""Regularised evolution: of a few drawn from the population the most accurate has a mutant, and the oldest dies, however good it was
(Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from edgenas.search.evaluations import Candidate
from edgenas.search.fresh import Fresh
from edgenas.search.strategy import Batch, Problem, Strategy
from edgenas.spaces.space import Subnet

TOURNAMENT_SHARE = 0.25  # of the population; 25 of 100 in the paper
BATCH = 4  # children of one population, for those who evaluate several at once
LITTER = 16  # mutants of one parent, of which the first that is new and within the budget is evaluated
PARENTS = 8  # that are tried for one child


def strategy(problem: Problem) -> Strategy:
    return _Aging(problem)


class _Aging:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(problem.seed)
        self.fresh = Fresh(problem, np.random.default_rng([problem.seed, 1]))
        self.population: deque[Candidate] = deque(maxlen=problem.rule.population)

    def ask(self) -> Batch:
        if not self.population:
            start = self.fresh.take(self.problem.start, self.problem.rule.population)
            start += self.fresh.draw(self.problem.rule.population - len(start))
            return Batch(tuple(start), reason=self.fresh.why_none)
        children: list[Subnet] = []
        for _ in range(BATCH):
            children += self._child() or self.fresh.draw(1)  # where all mutants are known, a stranger
        return Batch(tuple(children), reason=self.fresh.why_none)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        self.population.extend(candidates)  # the oldest leave on the other side

    def _child(self) -> list[Subnet]:
        """One, or none if no mutant was new."""
        space, narrowing = self.problem.space, self.problem.narrowing
        rate = max(self.problem.rule.mutation_rate, 1 / len(space.radix()))
        size = max(2, round(TOURNAMENT_SHARE * len(self.population)))
        for _ in range(PARENTS):
            drawn = self.rng.integers(len(self.population), size=size)
            parent = max((self.population[i] for i in drawn), key=lambda candidate: candidate.score)
            mutants = [space.mutate(parent.subnet, self.rng, rate) for _ in range(LITTER)]
            if found := self.fresh.take((narrowing.project(space, each, self.rng) for each in mutants), 1):
                return found
        return []
