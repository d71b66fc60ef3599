"""The one loop that all search strategies run in: it evaluates what they ask for, and stops by evaluations, time or convergence.

The same seed, start and answers take the same path, so a search that was killed finds its logged answers and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.pareto import hypervolume, non_dominated
from edgenas.search.evaluations import Candidate, ScoreMany
from edgenas.search.strategies import open_strategy
from edgenas.search.strategy import Batch, Problem, one_thread
from edgenas.spaces.space import Subnet


@dataclass(frozen=True)
class SearchResult:
    """`evaluated` in the order of evaluation; `front` the Pareto-optimal part, by rising latency, of those that were trained the
    longest (scores after different lengths of training can't be compared)."""

    evaluated: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    dropped_options: int
    stopped: str
    strategy: str

    @property
    def comparable(self) -> tuple[Candidate, ...]:
        """Those that were trained the longest, in the order of evaluation."""
        longest = max((candidate.rung for candidate in self.evaluated), default=0)
        return tuple(candidate for candidate in self.evaluated if candidate.rung == longest)


def search(
    problem: Problem,
    strategy: str,
    scores: ScoreMany,
    trained: Sequence[ScoreMany] = (),
    *,
    out_of_time: Callable[[], bool] = lambda: False,
    on_batch: Callable[[Batch], None] = lambda batch: None,
    on_evaluation: Callable[[int, Candidate], None] = lambda count, candidate: None,
) -> SearchResult:
    """The best subnets that meet the budget, searched for by the strategy of that name. Empty if it finds none that do.

    `scores` are with the supernet's weights, `trained[r - 1]` is after the r-th length of training, of as many as `problem.rungs` has.
    `on_batch` sees what is about to be evaluated. The first batch is evaluated whatever the time. Raises InputError for a strategy
    that needs more than the problem offers.
    """
    run = _Run(problem, strategy, (scores, *trained), out_of_time, on_evaluation)
    proposer = open_strategy(strategy, problem)
    while True:
        with one_thread():
            batch = proposer.ask()
        if not batch.subnets:
            return run.result(batch.reason)
        on_batch(batch)
        candidates, stopped = run.evaluate(batch)
        if stopped:
            return run.result(stopped)
        with one_thread():
            proposer.tell(candidates)


class _Run:
    def __init__(
        self,
        problem: Problem,
        strategy: str,
        scores: Sequence[ScoreMany],
        out_of_time: Callable[[], bool],
        on_evaluation: Callable[[int, Candidate], None],
    ) -> None:
        self.problem, self.strategy, self.scores = problem, strategy, scores
        self.out_of_time, self.on_evaluation = out_of_time, on_evaluation
        self.evaluated: list[Candidate] = []
        self.asked: set[tuple[Subnet, int]] = set()
        self.fronts: list[tuple[Candidate, ...]] = []  # after each evaluation at rung 0

    def evaluate(self, batch: Batch) -> tuple[list[Candidate], str]:
        """Its candidates, and why the search ends here, if it does."""
        limit = self.problem.rule.evaluations
        is_first = not self.evaluated
        candidates: list[Candidate] = []
        allowed = self._allowed(batch)
        scores = iter(self.scores[batch.rung](batch.subnets[: limit - len(self.evaluated)]))
        for subnet, ms in zip(batch.subnets, allowed, strict=True):
            if len(self.evaluated) >= limit:
                return candidates, f"{limit} evaluations were made"
            if not is_first and self.out_of_time():
                return candidates, "the time was up"
            candidate = Candidate(subnet, next(scores), float(ms), batch.rung)
            candidates.append(candidate)
            self.evaluated.append(candidate)
            if batch.rung == 0:
                self.fronts.append(_front_with(self.fronts[-1] if self.fronts else (), candidate))
            self.on_evaluation(len(self.evaluated), candidate)
        if len(self.evaluated) >= limit:
            return candidates, f"{limit} evaluations were made"
        if self.out_of_time():
            return candidates, "the time was up"
        if batch.rung == 0 and not batch.unfinished and self._has_converged():
            rule = self.problem.rule
            return (
                candidates,
                f"the hypervolume grew by less than {rule.tolerance:.1%} in {rule.patience} evaluations",
            )
        return candidates, ""

    def _allowed(self, batch: Batch) -> np.ndarray:
        """(N,) ms. A strategy that breaks the protocol would break a budget, or go on for ever."""
        ms = self.problem.latency(np.array([subnet.genome for subnet in batch.subnets]))
        if (ms > self.problem.budget_ms).any():
            raise ValueError(f"the strategy {self.strategy} proposed a subnet over the budget")
        asked = {(subnet, batch.rung) for subnet in batch.subnets}
        if len(asked) < len(batch.subnets) or asked & self.asked:
            raise ValueError(f"the strategy {self.strategy} proposed a subnet twice")
        self.asked |= asked
        return ms

    def _has_converged(self) -> bool:
        """The reference point is the budget, and the error of the worst of the first subnets, as many as a start has."""
        rule = self.problem.rule
        if len(self.fronts) < rule.start + rule.patience:
            return False
        first = [candidate for candidate in self.evaluated if candidate.rung == 0][: rule.start]
        reference = (self.problem.budget_ms * 1.0001, max(1 - c.score for c in first) + 1e-6)
        before, now = (
            hypervolume(_points(front), reference) for front in (self.fronts[-1 - rule.patience], self.fronts[-1])
        )
        return now < before * (1 + rule.tolerance)

    def result(self, stopped: str) -> SearchResult:
        longest = max((candidate.rung for candidate in self.evaluated), default=0)
        front: tuple[Candidate, ...] = ()
        for candidate in self.evaluated:
            if candidate.rung == longest:
                front = _front_with(front, candidate)
        dropped = self.problem.narrowing.dropped(self.problem.space)
        return SearchResult(tuple(self.evaluated), front, dropped, stopped, self.strategy)


def _front_with(front: tuple[Candidate, ...], candidate: Candidate) -> tuple[Candidate, ...]:
    if any(c.latency_ms <= candidate.latency_ms and c.score >= candidate.score for c in front):
        return front
    both = (*front, candidate)
    return tuple(both[i] for i in non_dominated(_points(both)))


def _points(candidates: Sequence[Candidate]) -> np.ndarray:
    """(N, 2): ms and error."""
    return np.array([(c.latency_ms, 1 - c.score) for c in candidates])
