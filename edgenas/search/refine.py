"""Searching on with short trainings. What shared weights think of a network says little where the supernet was trained for few steps,
and compares blocks of different kinds unfairly. So newcomers join the finalists, and all are trained alike, a little, on their own:
some random subnets, then those that a Gaussian process on all that was trained is the most hopeful about (the strategy `guided`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.search.evaluations import Candidate
from edgenas.search.explore import LatencyFunction, feasible
from edgenas.search.narrow import everything
from edgenas.search.strategies.guided import BATCH, FOR_THE_FRONT, Guided
from edgenas.search.strategy import Problem, SearchRule, one_thread
from edgenas.spaces.space import SearchSpace, Subnet

RANDOM_SHARE = 1 / 4  # of the newcomers: what the supernet overlooked. Most of them come last
TOGETHER = BATCH - FOR_THE_FRONT  # the others are trained in rounds of so many, which are chosen knowing of all before
MARGIN = 0.97  # of the budget: they are predicted, not measured


@dataclass(frozen=True)
class Room:
    """Where newcomers may come from: what `latency`, which knows of all other budgets too, predicts to be within `budget_ms`, and which
    of some subnets are `fitting` when they are measured. `key` stands for all that in caches."""

    latency: LatencyFunction
    budget_ms: float
    fitting: Callable[[Sequence[Subnet]], Sequence[Subnet]]
    key: str


def refined(
    space: SearchSpace,
    start: Sequence[Subnet],
    room: Room,
    newcomers: int,
    train: Callable[[Sequence[Subnet]], Sequence[float]],
    seed: int,
) -> list[Subnet]:
    """`start` and up to `newcomers` more that are predicted to meet the budget, the best by `train` first, which returns the scores of
    subnets (higher is better)."""
    budget_ms = MARGIN * room.budget_ms

    def trained(subnets: Sequence[Subnet]) -> list[Candidate]:
        ms = room.latency(np.array([subnet.genome for subnet in subnets]))
        return [Candidate(*each, 1) for each in zip(subnets, train(subnets), ms.tolist(), strict=True)]

    found = trained(start)
    drawn = feasible(space, room.latency, budget_ms, round(RANDOM_SHARE * newcomers), np.random.default_rng(seed))
    strangers = [subnet for subnet, _ in drawn if subnet not in start]
    found += trained(strangers) if strangers else []
    guide = Guided(Problem(space, room.latency, budget_ms, (), everything(space), SearchRule(), seed))
    guide.begin_after(found)
    left = newcomers - len(strangers)
    while left > 0:
        with one_thread():
            entered = guide.ask().subnets[: min(left, TOGETHER)]
        if not entered:
            break
        latest = trained(entered)
        guide.tell(latest)
        found += latest
        left -= len(entered)
    return [candidate.subnet for candidate in sorted(found, key=lambda candidate: -candidate.score)]
