"""Searching on with short trainings. What shared weights think of a network says little where the supernet was trained for few steps,
and compares blocks of different kinds unfairly. So random subnets and the children of the best join the finalists, and all are trained
alike, a little, on their own: regularised evolution (Real et al., AAAI 2019) without the ageing, which a few dozen don't need.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.search.explore import USEFUL_SHARE, LatencyFunction, feasible
from edgenas.spaces.space import SearchSpace, Subnet

RANDOM_SHARE = 1 / 4  # of the newcomers: what the supernet overlooked. Most of them come last
PARENTS = 6
TOGETHER = 4  # children are trained in rounds of so many: the next ones know of these
MARGIN = 0.97  # of the budget: they are predicted, not measured
MUTATION_RATE = 0.15
ATTEMPTS = 20


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
    rng = np.random.default_rng([seed, newcomers])
    scores = dict(zip(start, train(start), strict=True))
    drawn = feasible(space, room.latency, MARGIN * room.budget_ms, round(RANDOM_SHARE * newcomers), rng)
    entered = [subnet for subnet, _ in drawn if subnet not in scores]
    left = newcomers
    while entered:
        scores |= zip(entered, train(entered), strict=True)
        left -= len(entered)
        parents = sorted(scores, key=lambda subnet: -scores[subnet])[:PARENTS]
        entered = _children(space, parents, room, min(left, TOGETHER), scores, rng)
    return sorted(scores, key=lambda subnet: -scores[subnet])


def _children(
    space: SearchSpace,
    parents: Sequence[Subnet],
    room: Room,
    count: int,
    known: Collection[Subnet],
    rng: np.random.Generator,
) -> list[Subnet]:
    """Up to `count` new ones, if possible in the useful part of the budget: where another budget is the tighter one, nothing may be."""
    useful: dict[Subnet, None] = {}
    others: dict[Subnet, None] = {}
    for _ in range(ATTEMPTS if count > 0 else 0):
        pairs = rng.integers(len(parents), size=(4 * count, 2))
        drawn = [
            space.mutate(space.crossover(parents[a], parents[b], rng), rng, MUTATION_RATE) for a, b in pairs.tolist()
        ]
        shares = room.latency(np.array([child.genome for child in drawn])) / room.budget_ms
        for child, share in zip(drawn, shares, strict=True):
            if share <= MARGIN and child not in known:
                (useful if share >= USEFUL_SHARE else others)[child] = None
        if len(useful) >= count:
            break
    return [*useful, *others][:count]
