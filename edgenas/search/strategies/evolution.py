"""Constrained multi-objective evolution: NSGA-II (Deb et al. 2002) on accuracy and latency, under the budget.

The predictor answers for thousands of subnets in milliseconds: offspring over the budget are ranked by how far they are over it, and
never evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgenas.pareto import non_dominated
from edgenas.search.evaluations import Candidate
from edgenas.search.fresh import Fresh
from edgenas.search.strategy import Batch, Problem, Strategy
from edgenas.spaces.space import Subnet

BARREN = 50  # generations without anything new that end it


def strategy(problem: Problem) -> Strategy:
    return _Evolution(problem)


class _Evolution:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(problem.seed)
        self.fresh = Fresh(problem, np.random.default_rng([problem.seed, 1]))
        self.found: dict[Subnet, Candidate] = {}
        self.algorithm: Any = None
        self.offspring: Any = None  # the last generation as NSGA-II has it, and what it stands for
        self.subnets: list[Subnet] = []
        self.ms = np.empty(0)

    def ask(self) -> Batch:
        if not self.found:
            start = self.fresh.take(self.problem.start) or self.fresh.draw(self.problem.rule.start)
            return Batch(tuple(start), reason="" if start else self.fresh.why_none)
        if self.algorithm is None:
            self.algorithm = self._nsga2()
        for _ in range(BARREN):
            self.offspring = self.algorithm.ask()
            if self.offspring is None or not len(self.offspring):
                break
            self.subnets = [self.problem.space.subnet(tuple(map(int, row))) for row in self.offspring.get("X")]
            self.ms = self.problem.latency(np.array([subnet.genome for subnet in self.subnets]))
            inside = zip(self.subnets, self.ms <= self.problem.budget_ms, strict=True)
            if new := [subnet for subnet, fits in inside if fits and subnet not in self.found]:
                return Batch(tuple(dict.fromkeys(new)))
            self._settle()
        return Batch(reason="the population had no offspring that were new")

    def tell(self, candidates: Sequence[Candidate]) -> None:
        self.found |= {candidate.subnet: candidate for candidate in candidates}
        if self.offspring is not None:
            self._settle()

    def _settle(self) -> None:
        """Tells NSGA-II what its offspring are worth. What breaks the budget was never evaluated: its constraint alone ranks it."""
        scores = [self.found[subnet].score if subnet in self.found else 0.0 for subnet in self.subnets]
        self.offspring.set("F", np.stack([1 - np.array(scores), self.ms], axis=1))
        self.offspring.set("G", (self.ms[:, None] - self.problem.budget_ms) / self.problem.budget_ms)
        self.algorithm.tell(infills=self.offspring)

    def _nsga2(self) -> Any:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem as Genes

        radix = np.array(self.problem.space.radix())
        algorithm = NSGA2(
            pop_size=self.problem.rule.population,
            sampling=np.array([candidate.subnet.genome for candidate in self._best()]),
            crossover=_crossover(self),
            mutation=_mutation(self),
            eliminate_duplicates=True,
        )
        genes = Genes(n_var=len(radix), n_obj=2, n_ieq_constr=1, xl=np.zeros(len(radix)), xu=radix - 1)
        algorithm.setup(genes, seed=self.problem.seed, termination=("n_gen", 10_000), verbose=False)
        return algorithm

    def _best(self) -> list[Candidate]:
        """Front after front until the population is full."""
        left = list(self.found.values())
        chosen: list[Candidate] = []
        while left and len(chosen) < self.problem.rule.population:
            front = set(non_dominated(np.array([(c.latency_ms, 1 - c.score) for c in left])).tolist())
            chosen += [c for i, c in enumerate(left) if i in front]
            left = [c for i, c in enumerate(left) if i not in front]
        return chosen[: self.problem.rule.population]


def _crossover(evolution: _Evolution) -> Any:
    from pymoo.core.crossover import Crossover

    class SpaceCrossover(Crossover):
        def __init__(self) -> None:
            super().__init__(n_parents=2, n_offsprings=1, prob=0.9)

        def _do(self, problem: Any, parents: np.ndarray, **kwargs: Any) -> np.ndarray:
            """(2, matings, genes) -> (1, matings, genes)."""
            space, rng = evolution.problem.space, evolution.rng
            children = [
                space.crossover(space.subnet(tuple(map(int, a))), space.subnet(tuple(map(int, b))), rng).genome
                for a, b in zip(parents[0], parents[1], strict=True)
            ]
            return np.array(children)[None]

    return SpaceCrossover()


def _mutation(evolution: _Evolution) -> Any:
    from pymoo.core.mutation import Mutation

    class SpaceMutation(Mutation):
        def _do(self, problem: Any, rows: np.ndarray, **kwargs: Any) -> np.ndarray:
            space, rng = evolution.problem.space, evolution.rng
            rate, narrowing = evolution.problem.rule.mutation_rate, evolution.problem.narrowing
            mutants = [space.mutate(space.subnet(tuple(map(int, row))), rng, rate) for row in rows]
            return np.array([narrowing.project(space, mutant, rng).genome for mutant in mutants])

    return SpaceMutation()
