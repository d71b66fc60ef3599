"""From small to large: a predictor of accuracy learns from small subnets which somewhat larger ones to evaluate, step by step up to
the budget (PNAS: Liu et al., "Progressive Neural Architecture Search", ECCV 2018).

There a step adds a block to a cell. Here, in any space, it admits the next slower part of what fits the device, and the larger
subnets are offspring of those before. The small ones teach, the large ones are wanted: each step has more evaluations than the one
before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgenas.search.evaluations import Candidate
from edgenas.search.fresh import Fresh
from edgenas.search.gene_regression import GeneRegression
from edgenas.search.offspring import offspring
from edgenas.search.strategy import Batch, Problem, Strategy
from edgenas.spaces.space import Subnet

STEPS = 5  # as many as a cell has blocks in the paper
SAMPLED = 1024  # random subnets within the budget that the steps are laid out by
BATCH = 8  # after which the predictor learns again


def strategy(problem: Problem) -> Strategy:
    return _Progressive(problem)


class _Progressive:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(problem.seed)
        self.fresh = Fresh(problem, np.random.default_rng([problem.seed, 1]))
        self.found: list[Candidate] = []
        self.sampled: list[Subnet] = []
        self.limits_ms = np.empty(0)  # what a subnet may take in each step

    def ask(self) -> Batch:
        if not self.sampled:
            self._lay_out()
        step = self._step()
        limits_ms = [*self.limits_ms[step:-1], self.problem.budget_ms]
        batches = (self._most_hopeful(limit_ms) for limit_ms in limits_ms)
        batch = next(filter(None, batches), None) or self.fresh.draw(BATCH)
        return Batch(tuple(batch), unfinished=step < STEPS - 1, reason=self.fresh.why_none)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        self.found += candidates

    def _step(self) -> int:
        """Counted from 0. The n-th has n parts of the evaluations."""
        parts = np.cumsum(np.arange(1, STEPS))
        share = len(self.found) / self.problem.rule.evaluations
        return int(np.searchsorted(parts / (parts[-1] + STEPS), share, side="right"))

    def _lay_out(self) -> None:
        """The steps by equal parts of the subnets within the budget."""
        draws = Fresh(self.problem, np.random.default_rng([self.problem.seed, 2]))
        self.sampled = [*draws.take(self.problem.start), *draws.draw(SAMPLED)]
        if self.sampled:
            ms = self.problem.latency(np.array([subnet.genome for subnet in self.sampled]))
            self.limits_ms = np.quantile(ms, np.arange(1, STEPS + 1) / STEPS, method="higher")

    def _most_hopeful(self, limit_ms: float) -> list[Subnet]:
        """Of the sampled and of the best ones' offspring those predicted to be the most accurate; before there is evidence, random."""
        new = self.fresh.new([*self.sampled, *offspring(self.problem, self.found, self.rng)])
        if not new:
            return []
        genomes = np.array([subnet.genome for subnet in new])
        ms = self.problem.latency(genomes)
        within = np.flatnonzero(ms <= limit_ms)
        if self.found:
            hopes = GeneRegression(self.problem.space.radix(), self.found).predict(genomes[within], ms[within])
            within = within[np.argsort(-hopes, kind="stable")]
        else:
            within = self.rng.permutation(within)
        return self.fresh.take(new[i] for i in within[:BATCH])
