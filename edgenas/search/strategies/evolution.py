"""Constrained multi-objective evolution: NSGA-II (Deb et al. 2002) on accuracy and latency, under the budget.

The predictor answers for thousands of subnets in milliseconds: offspring over the budget are ranked by how far they are over it, and
never evaluated. No subnet is proposed twice: what was there before is mutated until it is new.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgenas.search.evaluations import Candidate
from edgenas.search.fresh import Fresh
from edgenas.search.strategy import Batch, Problem, Strategy
from edgenas.spaces.space import Subnet

BARREN = 50  # generations without anything new within the budget that end it
CROSSED_SHARE = 0.9  # of the offspring; the others have one parent
MUTATIONS = 10  # of one child until it is new


def strategy(problem: Problem) -> Strategy:
    return _Evolution(problem)


class _Evolution:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(problem.seed)
        self.fresh = Fresh(problem, np.random.default_rng([problem.seed, 1]))
        self.population: list[Candidate] = []  # the best first
        self.seen: set[Subnet] = set()
        self.over: list[Candidate] = []  # the offspring that are over the budget

    def ask(self) -> Batch:
        if not self.population:
            start = self.fresh.take(self.problem.start) or self.fresh.draw(self.problem.rule.start)
            self.seen.update(start)
            return Batch(tuple(start), reason="" if start else self.fresh.why_none)
        for _ in range(BARREN):
            children = self._children()
            if not children:
                break
            ms = self.problem.latency(np.array([child.genome for child in children]))
            inside = ms <= self.problem.budget_ms
            self.over = [Candidate(children[i], 0.0, float(ms[i])) for i in np.flatnonzero(~inside)]
            if inside.any():
                return Batch(tuple(children[i] for i in np.flatnonzero(inside)))
            self.tell(())
        return Batch(reason="the population had no offspring that were new")

    def tell(self, candidates: Sequence[Candidate]) -> None:
        everyone = [*self.population, *candidates, *self.over]
        order = _best_first(everyone, self.problem.budget_ms)
        self.population = [everyone[i] for i in order[: self.problem.rule.population]]

    def _children(self) -> list[Subnet]:
        """As many as the population has members, fewer where hardly any are left: each parent the better of two."""
        space, rule, rng = self.problem.space, self.problem.rule, self.rng
        parents = rng.integers(len(self.population), size=(rule.population, 2, 2)).min(axis=2)
        crossed = rng.random(rule.population) < CROSSED_SHARE
        found = []
        for (a, b), both in zip(parents.tolist(), crossed.tolist(), strict=True):
            child = self.population[a].subnet
            if both:
                child = space.crossover(child, self.population[b].subnet, rng)
            for _ in range(MUTATIONS):
                mutant = space.mutate(child, rng, rule.mutation_rate)
                child = self.problem.narrowing.project(space, mutant, rng)
                if child not in self.seen:
                    self.seen.add(child)
                    found.append(child)
                    break
        return found


def _best_first(candidates: Sequence[Candidate], budget_ms: float) -> np.ndarray:
    """(N,) indices: within the budget front after front, of a front those with the most room around them first; then those over it,
    the least first. Where one of two is the better parent or survivor, it is the earlier one."""
    from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    points = np.array([(1 - candidate.score, candidate.latency_ms) for candidate in candidates])
    excess_ms = np.maximum(points[:, 1] - budget_ms, 0)
    inside = np.flatnonzero(excess_ms == 0)
    rank, room = np.zeros(len(points)), np.zeros(len(points))
    for number, front in enumerate(NonDominatedSorting().do(points[inside])):
        rank[inside[front]] = number
        room[inside[front]] = get_crowding_function("cd").do(points[inside[front]], n_remove=0)
    return np.lexsort((-room, rank, excess_ms))
