"""Successive halving over lengths of training: many candidates have a look with the supernet's weights, the best of them are trained
a little on their own, and the better ones longer (Jamieson & Talwalkar, AISTATS 2016).

Training of their own ranks candidates far better than shared weights do, and costs a hundred times as much.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from edgenas.search.evaluations import Candidate
from edgenas.search.fresh import Fresh
from edgenas.search.halving import Standing, rungs
from edgenas.search.promising import most_promising
from edgenas.search.strategy import Batch, Problem, Strategy
from edgenas.spaces.space import Subnet

NEEDS = ("training",)

_Rungs = Generator[tuple[int, tuple[Subnet, ...]], Sequence[float], list[Standing[Subnet]]]


def strategy(problem: Problem) -> Strategy:
    return _Halving(problem)


class _Halving:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.fresh = Fresh(problem, np.random.default_rng(problem.seed))
        self.running: _Rungs | None = None
        self.next: tuple[int, tuple[Subnet, ...]] | None = None

    def ask(self) -> Batch:
        if not self.fresh.given:
            start = self.fresh.take(self.problem.start, self._screened)
            start += self.fresh.draw(self._screened - len(start))
            return Batch(tuple(start), unfinished=True, reason=self.fresh.why_none)
        if self.next is None:
            return Batch(reason="the last of them were trained for the longest")
        rung, subnets = self.next
        return Batch(subnets, rung=rung + 1, unfinished=True)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        try:
            if self.running is None:
                entrants = [min(count, len(candidates)) for count in self.problem.rungs]
                best = most_promising(candidates, entrants[0])
                self.running = rungs([candidate.subnet for candidate in best], entrants)
                self.next = next(self.running)
            else:
                self.next = self.running.send([candidate.score for candidate in candidates])
        except StopIteration:
            self.next = None

    @property
    def _screened(self) -> int:
        """How many have a look: what the trainings leave of the evaluations, but at least half."""
        evaluations = self.problem.rule.evaluations
        return max(evaluations - sum(self.problem.rungs), (evaluations + 1) // 2)
