"""Constrained multi-objective evolution: NSGA-II (Deb et al. 2002) on accuracy and latency, under a latency budget.

The predictor answers for thousands of subnets in milliseconds, so only what meets the budget is ever evaluated. The same seed and
start take the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenas.pareto import hypervolume, non_dominated
from edgenas.search.evaluations import Candidate, Evaluations
from edgenas.search.explore import LatencyFunction
from edgenas.search.narrow import Narrowing
from edgenas.spaces.space import SearchSpace, Subnet


@dataclass(frozen=True)
class SearchRule:
    """`explored` random subnets come first, `neighbours` are what the supernet is trained on further, and the `start` of the
    evolution is drawn from those. It stops after `evaluations`, or when the hypervolume grew by less than `tolerance` over
    `patience` generations, or when the time is up."""

    explored: int = 64
    neighbours: int = 48
    start: int = 48
    population: int = 24
    evaluations: int = 240
    patience: int = 4
    tolerance: float = 0.002
    mutation_rate: float = 0.1


@dataclass(frozen=True)
class SearchResult:
    """`evaluated` in the order of evaluation; `front` its Pareto-optimal part by rising latency."""

    evaluated: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    dropped_options: int
    stopped: str


def search(
    space: SearchSpace,
    latency: LatencyFunction,
    evaluations: Evaluations,
    budget_ms: float,
    start: Sequence[Subnet],
    narrowing: Narrowing,
    rule: SearchRule,
    seed: int,
    *,
    out_of_time: Callable[[], bool] = lambda: False,
    on_evaluation: Callable[[int, Candidate], None] = lambda count, candidate: None,
) -> SearchResult:
    """The best subnets with a predicted latency of at most `budget_ms`. Empty if none of `start` meets it."""
    evolution = _Evolution(space, latency, evaluations, budget_ms, narrowing, rule, seed, out_of_time, on_evaluation)
    return evolution.run(start)


class _Evolution:
    def __init__(
        self,
        space: SearchSpace,
        latency: LatencyFunction,
        evaluations: Evaluations,
        budget_ms: float,
        narrowing: Narrowing,
        rule: SearchRule,
        seed: int,
        out_of_time: Callable[[], bool],
        on_evaluation: Callable[[int, Candidate], None],
    ) -> None:
        self.space, self.latency, self.evaluations = space, latency, evaluations
        self.budget_ms, self.narrowing, self.rule, self.seed = budget_ms, narrowing, rule, seed
        self.out_of_time, self.on_evaluation = out_of_time, on_evaluation
        self.rng = np.random.default_rng(seed)
        self.found: dict[str, Candidate] = {}

    def run(self, start: Sequence[Subnet]) -> SearchResult:
        ms = self.latency(np.array([subnet.genome for subnet in start])) if start else np.empty(0)
        for subnet, predicted in zip(start, ms, strict=True):
            if predicted <= self.budget_ms:
                self._evaluate(subnet, float(predicted))
        if not self.found:
            return SearchResult((), (), 0, "nothing in the space is predicted to meet the budget")
        self.worst_error = max(1 - c.score for c in self.found.values())
        stopped = self._evolve()
        evaluated = tuple(self.found.values())
        front = tuple(evaluated[i] for i in non_dominated(_objectives(evaluated)))
        return SearchResult(evaluated, front, self.narrowing.dropped(self.space), stopped)

    def _evolve(self) -> str:
        algorithm = self._nsga2()
        volumes = [self._volume()]
        while True:
            if self.out_of_time():
                return "the time was up"
            if len(self.found) >= self.rule.evaluations:
                return f"{self.rule.evaluations} evaluations were made"
            if self._has_converged(volumes):
                return (
                    f"the hypervolume grew by less than {self.rule.tolerance:.1%} in {self.rule.patience} generations"
                )
            population = algorithm.ask()
            subnets = [self.space.subnet(tuple(int(g) for g in row)) for row in population.get("X")]
            ms = self.latency(np.array([s.genome for s in subnets]))
            objectives = []
            for subnet, predicted in zip(subnets, ms, strict=True):
                # what breaks the budget is never evaluated: its constraint alone ranks it
                score = self._evaluate(subnet, float(predicted)) if predicted <= self.budget_ms else 0.0
                objectives.append((1 - score, predicted))
            population.set("F", np.array(objectives))
            population.set("G", (ms[:, None] - self.budget_ms) / self.budget_ms)
            algorithm.tell(infills=population)
            volumes.append(self._volume())

    def _has_converged(self, volumes: list[float]) -> bool:
        patience = self.rule.patience
        return len(volumes) > patience and volumes[-1] < volumes[-1 - patience] * (1 + self.rule.tolerance)

    def _evaluate(self, subnet: Subnet, predicted: float) -> float:
        if subnet.id not in self.found:
            self.found[subnet.id] = Candidate(subnet, self.evaluations.score(subnet), predicted)
            self.on_evaluation(len(self.found), self.found[subnet.id])
        return self.found[subnet.id].score

    def _volume(self) -> float:
        """Reference point: the budget, and the error of the worst subnet of the start."""
        points = _objectives(tuple(self.found.values()))
        return hypervolume(points, (self.budget_ms * 1.0001, self.worst_error + 1e-6))

    def _nsga2(self) -> Any:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem

        genes = len(self.space.radix())
        start = np.array([c.subnet.genome for c in self._best()])
        algorithm = NSGA2(
            pop_size=self.rule.population,
            sampling=start,
            crossover=_crossover(self),
            mutation=_mutation(self),
            eliminate_duplicates=True,
        )
        problem = Problem(n_var=genes, n_obj=2, n_ieq_constr=1, xl=np.zeros(genes), xu=np.array(self.space.radix()) - 1)
        algorithm.setup(problem, seed=self.seed, termination=("n_gen", 10_000), verbose=False)
        return algorithm

    def _best(self) -> list[Candidate]:
        """Front after front until the population is full."""
        left = list(self.found.values())
        chosen: list[Candidate] = []
        while left and len(chosen) < self.rule.population:
            front = set(non_dominated(_objectives(tuple(left))).tolist())
            chosen += [c for i, c in enumerate(left) if i in front]
            left = [c for i, c in enumerate(left) if i not in front]
        return chosen[: self.rule.population]


def _objectives(candidates: tuple[Candidate, ...]) -> np.ndarray:
    return np.array([(c.latency_ms, 1 - c.score) for c in candidates])


def _crossover(evolution: _Evolution) -> Any:
    from pymoo.core.crossover import Crossover

    class SpaceCrossover(Crossover):
        def __init__(self) -> None:
            super().__init__(n_parents=2, n_offsprings=1, prob=0.9)

        def _do(self, problem: Any, parents: np.ndarray, **kwargs: Any) -> np.ndarray:
            """(2, matings, genes) -> (1, matings, genes)."""
            space, rng = evolution.space, evolution.rng
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
            space, rng = evolution.space, evolution.rng
            mutants = [
                space.mutate(space.subnet(tuple(map(int, row))), rng, evolution.rule.mutation_rate) for row in rows
            ]
            return np.array([evolution.narrowing.project(space, mutant, rng).genome for mutant in mutants])

    return SpaceMutation()
