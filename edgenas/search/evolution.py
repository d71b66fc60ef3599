"""Constrained multi-objective evolution: NSGA-II (Deb et al. 2002) on accuracy and latency, under a latency budget.

First random feasible subnets are evaluated; they narrow the space and start the population. The predictor answers for thousands
of subnets in milliseconds, so only what meets the budget is ever evaluated. The same seed takes the same path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenas.pareto import hypervolume, non_dominated
from edgenas.search.evaluations import Candidate, Evaluations
from edgenas.search.narrow import everything, narrow
from edgenas.spaces.space import SearchSpace, Subnet

LatencyFunction = Callable[[np.ndarray], np.ndarray]  # (N, genes) -> (N,) ms
POOL = 20_000
TRIES = 40


@dataclass(frozen=True)
class SearchRule:
    """Stops after `evaluations`, or when the hypervolume grew by less than `tolerance` over `patience` generations, or when
    `out_of_time` says so."""

    warm_up: int = 60
    population: int = 24
    evaluations: int = 240
    patience: int = 4
    tolerance: float = 0.002
    mutation_rate: float = 0.12
    seed: int = 0


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
    rule: SearchRule,
    *,
    out_of_time: Callable[[], bool] = lambda: False,
    on_evaluation: Callable[[int, Candidate], None] = lambda count, candidate: None,
) -> SearchResult:
    """The best subnets with a predicted latency of at most `budget_ms`. Empty if none of the pool meets it."""
    return _Evolution(space, latency, evaluations, budget_ms, rule, out_of_time, on_evaluation).run()


class _Evolution:
    def __init__(
        self,
        space: SearchSpace,
        latency: LatencyFunction,
        evaluations: Evaluations,
        budget_ms: float,
        rule: SearchRule,
        out_of_time: Callable[[], bool],
        on_evaluation: Callable[[int, Candidate], None],
    ) -> None:
        self.space, self.latency, self.evaluations = space, latency, evaluations
        self.budget_ms, self.rule = budget_ms, rule
        self.out_of_time, self.on_evaluation = out_of_time, on_evaluation
        self.rng = np.random.default_rng(rule.seed)
        self.found: dict[str, Candidate] = {}
        self.narrowing = everything(space)

    def run(self) -> SearchResult:
        pool = self._feasible_pool()
        for subnet in pool[: self.rule.warm_up]:
            self._evaluate(subnet)
        if not self.found:
            return SearchResult((), (), 0, "nothing in the space is predicted to meet the budget")
        self.narrowing = narrow(self.space, list(self.found.values()))
        stopped = self._evolve()
        evaluated = tuple(self.found.values())
        front = tuple(evaluated[i] for i in non_dominated(self._objectives(evaluated)))
        return SearchResult(evaluated, front, self.narrowing.dropped(self.space), stopped)

    def _feasible_pool(self) -> list[Subnet]:
        """Random subnets within the budget; half of them from its upper half, where the accurate ones are."""
        genomes = np.array([self.space.sample(self.rng).genome for _ in range(POOL // 10)])
        ms = self.latency(genomes)
        for _ in range(TRIES):  # a tight budget: look near the fastest that were found
            if (ms <= self.budget_ms).sum() >= 2 * self.rule.warm_up:
                break
            parents = genomes[np.argsort(ms)[:200]]
            children = [
                self.space.mutate(self.space.subnet(tuple(parent)), self.rng, 0.2).genome
                for parent in parents[self.rng.integers(len(parents), size=500)]
            ]
            genomes = np.unique(np.concatenate([genomes, np.array(children)]), axis=0)
            ms = self.latency(genomes)
        feasible = genomes[ms <= self.budget_ms]
        ms = ms[ms <= self.budget_ms]
        order = self.rng.permutation(len(feasible))
        upper = [i for i in order if ms[i] > self.budget_ms / 2]
        lower = [i for i in order if ms[i] <= self.budget_ms / 2]
        mixed = [i for pair in zip(upper, lower, strict=False) for i in pair]
        mixed += upper[len(lower) :] + lower[len(upper) :]
        return list({s.id: s for s in (self.space.subnet(tuple(feasible[i])) for i in mixed)}.values())

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

    def _evaluate(self, subnet: Subnet, predicted: float | None = None) -> float:
        if subnet.id not in self.found:
            ms = float(self.latency(np.array([subnet.genome]))[0]) if predicted is None else predicted
            self.found[subnet.id] = Candidate(subnet, self.evaluations.score(subnet), ms)
            self.on_evaluation(len(self.found), self.found[subnet.id])
        return self.found[subnet.id].score

    @staticmethod
    def _objectives(candidates: tuple[Candidate, ...]) -> np.ndarray:
        return np.array([(c.latency_ms, 1 - c.score) for c in candidates])

    def _volume(self) -> float:
        """Reference point: the budget, and the error of the worst subnet of the warm-up."""
        candidates = tuple(self.found.values())
        worst = max(1 - c.score for c in candidates[: self.rule.warm_up])
        return hypervolume(self._objectives(candidates), (self.budget_ms * 1.0001, worst + 1e-6))

    def _nsga2(self) -> Any:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem

        genes = len(self.space.radix())
        start = np.array([c.subnet.genome for c in self._best_of_warm_up()])
        algorithm = NSGA2(
            pop_size=self.rule.population,
            sampling=start,
            crossover=_crossover(self),
            mutation=_mutation(self),
            eliminate_duplicates=True,
        )
        problem = Problem(n_var=genes, n_obj=2, n_ieq_constr=1, xl=np.zeros(genes), xu=np.array(self.space.radix()) - 1)
        algorithm.setup(problem, seed=self.rule.seed, termination=("n_gen", 10_000), verbose=False)
        return algorithm

    def _best_of_warm_up(self) -> list[Candidate]:
        """Front after front until the population is full."""
        left = list(self.found.values())
        chosen: list[Candidate] = []
        while left and len(chosen) < self.rule.population:
            front = set(non_dominated(self._objectives(tuple(left))).tolist())
            chosen += [c for i, c in enumerate(left) if i in front]
            left = [c for i, c in enumerate(left) if i not in front]
        return chosen[: self.rule.population]


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
