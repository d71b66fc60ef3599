"""Guided by a model: it learns accuracies from what was evaluated, and asks in small batches for what it is most hopeful about.

A Gaussian process on features of the live graph (`edgenas.search.network_features`), on the choices and on the latency. Of each
batch most go where the accuracy under the budget is expected to improve the most, the rest where the front's hypervolume is. A small
space is looked at whole; of a large one a pool of random subnets is, and of offspring of the best, renewed with each batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from edgenas.search.accuracy_model import AccuracyModel
from edgenas.search.evaluations import Candidate
from edgenas.search.fresh import ENUMERABLE, Fresh
from edgenas.search.improvement import expected_hypervolume_improvement, expected_improvement
from edgenas.search.offspring import offspring
from edgenas.search.space_features import Table, features_of
from edgenas.search.strategy import Batch, Problem, Strategy
from edgenas.spaces.space import Subnet

DIVERSE, STRANGERS = 8, 2  # what it starts with
LARGE_SHARE = 4  # the largest quarter, by live MACs, is where the diverse ones are chosen
BATCH = 5
FOR_THE_FRONT = 1  # of a batch
WHOLE = 8192  # a space of fewer subnets within the budget is looked at whole
POOL, LARGEST_POOL = 1024, 2048  # of a larger space
NEW = 64  # random ones that come into it before a batch, beside offspring of the best


def strategy(problem: Problem) -> Strategy:
    return Guided(problem)


class Guided:
    """Of each batch the last FOR_THE_FRONT are for the front."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(problem.seed)
        self.fresh = Fresh(problem, np.random.default_rng([problem.seed, 1]))  # what came into the pool
        self.features = features_of(problem.space)
        self.found: dict[Subnet, Candidate] = {}
        self.pool: list[Subnet] = []  # the evaluated among them
        self.ms = np.empty(0)
        self.table: Table | None = None  # of the pool, unless that has changed
        self.is_whole = False

    def ask(self) -> Batch:
        if not self.found:
            chosen = self._begin()
        else:
            if not self.is_whole:
                children = offspring(self.problem, self.found.values(), self.rng)
                self._renew([*self.pool, *self.fresh.take(children), *self.fresh.draw(NEW)])
            chosen = self._most_hopeful()
        return Batch(tuple(chosen), reason="" if chosen else self.fresh.why_none)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        self.found |= {candidate.subnet: candidate for candidate in candidates}

    def begin_after(self, evaluated: Sequence[Candidate]) -> None:
        """Instead of a first batch of its own: these are known, whatever their latency."""
        self.fresh.given.update(candidate.subnet for candidate in evaluated)
        self._draw([candidate.subnet for candidate in evaluated])
        self.tell(evaluated)

    def _draw(self, before: list[Subnet]) -> list[Subnet]:
        """Those that come into the pool after `before`."""
        count = WHOLE if prod(self.problem.space.radix()) <= ENUMERABLE else POOL
        drawn = self.fresh.draw(count)
        self.is_whole = len(drawn) < count
        self._renew([*before, *drawn])
        return drawn

    def _renew(self, pool: list[Subnet]) -> None:
        self.pool, self.table = pool, None
        self.ms = self.problem.latency(np.array([subnet.genome for subnet in pool])) if pool else np.empty(0)

    def _values(self) -> Table:
        if self.table is None:
            self.table = self.features.table(self.problem.space, self.pool, self.ms)
        return self.table

    def _begin(self) -> list[Subnet]:
        """Diverse ones of the promising or, where nothing is said to be, of the large; and strangers to them."""
        space = self.problem.space
        promising = self.fresh.take(self.problem.start)
        drawn = self._draw(promising)
        if not self.pool:
            return []
        among = np.arange(len(promising))
        if not promising:
            largest = np.argsort(-self.features.log_size(space, drawn, "MACs"), kind="stable")
            among = largest[: max(DIVERSE, len(drawn) // LARGE_SHARE)]
        diverse = self._diverse(among)
        strangers = [i for i in range(len(promising), len(self.pool)) if i not in diverse]
        return [self.pool[i] for i in diverse + strangers[:STRANGERS]]

    def _diverse(self, among: np.ndarray) -> list[int]:
        """A random one, and then always the one that is the farthest from those before. All are places in the pool."""
        values = self._values().values[among]
        chosen = [int(self.rng.integers(len(among)))]
        apart = np.full(len(among), np.inf)
        while len(chosen) < min(DIVERSE, len(among)):
            apart = np.minimum(apart, ((values - values[chosen[-1]]) ** 2).sum(axis=1))
            apart[chosen] = -1
            chosen.append(int(apart.argmax()))
        return [int(i) for i in among[chosen]]

    def _most_hopeful(self) -> list[Subnet]:
        asked = np.array([i for i, subnet in enumerate(self.pool) if subnet in self.found])
        left = np.setdiff1d(np.arange(len(self.pool)), asked)
        if not len(left):
            return []
        table = self._values()
        scores = np.array([self.found[self.pool[i]].score for i in asked])
        model = AccuracyModel(table.values[asked], scores, table.groups)
        belief = model.belief(table.values[left])
        best = float(model.y.max())
        known = np.stack([self.ms[asked], model.y], axis=1)
        reference = (self.problem.budget_ms * 1.0001, float(model.y.min()))
        price = self._price(left)
        chosen: list[int] = []
        for turn in range(min(BATCH, len(left))):
            if turn < BATCH - FOR_THE_FRONT:
                hopes = expected_improvement(belief.mean, belief.deviation, best)
            else:
                hopes = expected_hypervolume_improvement(belief.mean, belief.deviation, self.ms[left], known, reference)
            hopes /= price
            hopes[chosen] = -1
            chosen.append(int(hopes.argmax()))
            belief.ask(chosen[-1])
        most = [self.pool[left[i]] for i in chosen]
        if not self.is_whole and len(left) > LARGEST_POOL:
            hopes = expected_improvement(belief.mean, belief.deviation, best) / price
            hopes[chosen] = np.inf
            kept = left[np.argsort(-hopes, kind="stable")[:LARGEST_POOL]]
            self._renew([self.pool[i] for i in np.sort(np.concatenate([asked, kept]))])
        return most

    def _price(self, places: np.ndarray) -> np.ndarray:
        """(N,) what it takes to evaluate them, in units of our own."""
        if not self.problem.charged_by_size:
            return np.ones(len(places))
        logs = self.features.log_size(self.problem.space, [self.pool[i] for i in places], "values")
        return np.exp(logs - logs.mean())
