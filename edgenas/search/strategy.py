"""What a search strategy is asked and what it answers: one protocol, and the problem that every strategy is given.

A strategy only proposes. `edgenas.search.run` evaluates, keeps the log, and decides when to stop, so that budgets, resuming and
convergence mean the same for each of them. Strategies are files of `edgenas/search/strategies/`, found by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from edgenas.search.evaluations import Candidate
from edgenas.search.explore import LatencyFunction
from edgenas.search.narrow import Narrowing
from edgenas.spaces.space import SearchSpace, Subnet

Relaxation = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""(sum of radix,) weights of all options, gene after gene, each gene's summing to 1 -> the supernet's loss on a batch of images when
every choice is that mix of its options, and its gradient of the same shape. Each call takes the next batch."""


@dataclass(frozen=True)
class SearchRule:
    """`explored` random subnets come first, `neighbours` are what the supernet is trained on further, and the `start` of a search
    is drawn from those. It stops after `evaluations`, or when the hypervolume grew by less than `tolerance` over `patience`
    evaluations, or when the time is up. `population` and `mutation_rate` are those of evolutions."""

    explored: int = 64
    neighbours: int = 48
    start: int = 48
    population: int = 24
    evaluations: int = 240
    patience: int = 96
    tolerance: float = 0.002
    mutation_rate: float = 0.1


@dataclass(frozen=True)
class Problem:
    """`latency` (ms) is above `budget_ms` for whatever breaks any budget, and at most `budget_ms` for what may be proposed. `start` is
    where it is promising to begin (it may hold subnets over the budget), `narrowing` what evidence left of the space.

    `charged_by_size`: a score is found by running the subnet on images, which takes about as long as it has values to compute; else
    all are taken to take equally long.

    What only some runs offer: `rungs`, how many subnets have their turn at each length of training of their own (empty: none are
    trained), and `relaxation`, of a supernet whose choices can be mixed.
    """

    space: SearchSpace
    latency: LatencyFunction
    budget_ms: float
    start: tuple[Subnet, ...]
    narrowing: Narrowing
    rule: SearchRule
    seed: int
    charged_by_size: bool = False
    rungs: tuple[int, ...] = ()
    relaxation: Relaxation | None = None


@dataclass(frozen=True)
class Batch:
    """What a strategy wants evaluated next. Empty: it has nothing left to propose, for the `reason`.

    `rung` 0 asks for a score from the supernet's weights, rung r for one after the r-th length of training. `unfinished`: this is
    a part of a plan, which an hypervolume that doesn't grow is no reason to break off.
    """

    subnets: tuple[Subnet, ...] = ()
    rung: int = 0
    unfinished: bool = False
    reason: str = ""


class Strategy(Protocol):
    """Deterministic: the same problem and the same answers lead to the same batches. That is all that resuming asks for."""

    def ask(self) -> Batch:
        """Distinct subnets, all of them within the budget and never asked for before at that rung. Bounded: where nothing new is found
        after so many tries, the batch is empty."""
        ...

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """The evaluated batch, in its order. Not called for one that the search broke off in."""
        ...


def one_thread() -> Any:
    """For linear algebra: a strategy's matrices are small, and the last bits of its sums must not depend on the machine."""
    return threadpool_limits(limits=1, user_api="blas")
