"""Random subnets within the budget, none of them twice: what every other strategy has to beat (Li & Talwalkar, UAI 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgenas.search.evaluations import Candidate
from edgenas.search.fresh import Fresh
from edgenas.search.strategy import Batch, Problem, Strategy

BATCH = 16


def strategy(problem: Problem) -> Strategy:
    return _Random(problem)


class _Random:
    def __init__(self, problem: Problem) -> None:
        self.fresh = Fresh(problem, np.random.default_rng(problem.seed))

    def ask(self) -> Batch:
        drawn = self.fresh.draw(BATCH)
        return Batch(tuple(drawn), reason="" if drawn else self.fresh.why_none)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """What was found changes nothing."""
