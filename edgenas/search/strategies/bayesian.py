"""Bayesian optimisation with Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), every gene a category.

It models which options the accurate subnets have, and those over the budget as what to keep away from; these are known by their
predicted latency alone and never evaluated (constrained TPE: Watanabe & Hutter, IJCAI 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgenas.search.evaluations import Candidate
from edgenas.search.fresh import Fresh
from edgenas.search.strategy import Batch, Problem, Strategy
from edgenas.spaces.space import Subnet

BATCH = 4
TRIES = 4  # proposals for one subnet that is new and within the budget
LITTER = 16  # mutants of each that are looked at where none was


def strategy(problem: Problem) -> Strategy:
    return _Bayesian(problem)


class _Bayesian:
    def __init__(self, problem: Problem) -> None:
        import optuna

        self.problem = problem
        self.rng = np.random.default_rng(problem.seed)
        self.fresh = Fresh(problem, np.random.default_rng([problem.seed, 1]))
        self.genes: dict[str, optuna.distributions.BaseDistribution] = {
            str(gene): optuna.distributions.CategoricalDistribution(range(options))
            for gene, options in enumerate(problem.space.radix())
        }
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=problem.seed, n_startup_trials=1)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)

    def ask(self) -> Batch:
        if not self.fresh.given:
            start = self.fresh.take(self.problem.start, self.problem.rule.population)
            start += self.fresh.draw(self.problem.rule.population - len(start))
            return Batch(tuple(start), reason=self.fresh.why_none)
        found: list[Subnet] = []
        for _ in range(BATCH):
            found += self._proposed() or self.fresh.draw(1)  # where it repeats itself, a random one
        return Batch(tuple(found), reason=self.fresh.why_none)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            self._learn(candidate.subnet, candidate.score, 0.0)

    def _proposed(self) -> list[Subnet]:
        """One that the model proposes, or else a mutant of such a one; none if nothing of it is new and within the budget."""
        import optuna

        space, budget_ms = self.problem.space, self.problem.budget_ms
        known: list[Subnet] = []
        for _ in range(TRIES):
            trial = self.study.ask(self.genes)
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)  # what is learnt is of the canonical genes
            subnet = self._narrowed(space.subnet(tuple(trial.params[gene] for gene in self.genes)))
            if found := self.fresh.take([subnet]):
                return found
            (ms,) = self.problem.latency(np.array([subnet.genome]))
            if ms > budget_ms:
                self._learn(subnet, 0.0, float(ms / budget_ms - 1))
            known.append(subnet)
        rate = max(self.problem.rule.mutation_rate, 1 / len(self.genes))
        mutants = (space.mutate(subnet, self.rng, rate) for subnet in known * LITTER)
        return self.fresh.take(map(self._narrowed, mutants), 1)

    def _narrowed(self, subnet: Subnet) -> Subnet:
        return self.problem.narrowing.project(self.problem.space, subnet, self.rng)

    def _learn(self, subnet: Subnet, score: float, excess: float) -> None:
        """`excess`: the share of the budget that the subnet is over it."""
        import optuna

        trial = optuna.trial.create_trial(
            params=dict(zip(self.genes, subnet.genome, strict=True)),
            distributions=self.genes,
            value=score,
            constraints={"budget": excess},
        )
        self.study.add_trial(trial)
