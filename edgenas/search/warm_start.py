"""A warm start: half of what is explored is not random, but what a proxy ranks highest among many more.

The other half stays random, so that each run says itself whether its proxy was worth anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.search.explore import LatencyFunction, feasible
from edgenas.spaces.space import SearchSpace, Subnet

POOL = 4  # times as many as are explored: so many are ranked

Ranking = Callable[[Sequence[Subnet]], Sequence[float]]  # higher is better
Drawn = tuple[Subnet, float]  # with its latency in ms


@dataclass(frozen=True)
class WarmStart:
    """What is to be explored. Of a space that holds few subnets within the budget, `ranked` may be fewer than `random`, or none."""

    random: tuple[Drawn, ...]
    ranked: tuple[Drawn, ...]


def warm_start(
    space: SearchSpace, latency: LatencyFunction, budget_ms: float, count: int, seed: int, ranking: Ranking
) -> WarmStart:
    """`count` distinct subnets within the budget; equal ones of the ranking in the order in which they were drawn."""
    rng = np.random.default_rng(seed)
    found = feasible(space, latency, budget_ms, POOL * count, rng)
    drawn = [found[i] for i in rng.permutation(len(found))]
    random, others = drawn[: count - count // 2], drawn[count - count // 2 :]
    values = ranking([subnet for subnet, _ in others])
    best = sorted(range(len(others)), key=lambda i: -values[i])[: count // 2]
    return WarmStart(tuple(random), tuple(others[i] for i in best))
