"""Looking around before the search: random subnets within the budget, and what they say about where to look.

The evidence narrows the space, and the best of it, crossed and mutated, gives the neighbourhood that the supernet is then trained on
further: weights shared by millions of subnets serve none of them well, weights shared by a few hundred promising ones do
(attentive sampling: AttentiveNAS, Wang et al., CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.search.evaluations import Candidate, Evaluations
from edgenas.search.narrow import Narrowing, narrow
from edgenas.spaces.space import SearchSpace, Subnet

LatencyFunction = Callable[[np.ndarray], np.ndarray]  # (N, genes) -> (N,) ms
SAMPLES = 4000
TIGHTENINGS = 20
PARENTS_SHARE = 4  # the best quarter of what was evaluated
USEFUL_SHARE = 0.6  # of the budget: what is faster leaves accuracy on the table


@dataclass(frozen=True)
class Exploration:
    """What was evaluated, in order, and what is left of the space."""

    candidates: tuple[Candidate, ...]
    narrowing: Narrowing


def explore(
    space: SearchSpace,
    latency: LatencyFunction,
    evaluations: Evaluations,
    budget_ms: float,
    count: int,
    seed: int,
    on_evaluation: Callable[[int, Candidate], None] = lambda count, candidate: None,
    *,
    drawn: Sequence[tuple[Subnet, float]] | None = None,
) -> Exploration | None:
    """Evaluate `count` random subnets predicted to meet the budget, or those `drawn`, with their latencies. None if there are none."""
    if drawn is None:
        drawn = feasible(space, latency, budget_ms, count, np.random.default_rng(seed))
    found = []
    for (subnet, ms), score in zip(drawn, evaluations.scores([subnet for subnet, _ in drawn]), strict=True):
        found.append(Candidate(subnet, score, ms))
        on_evaluation(len(found), found[-1])
    return Exploration(tuple(found), narrow(space, found)) if found else None


def feasible(
    space: SearchSpace, latency: LatencyFunction, budget_ms: float, count: int, rng: np.random.Generator
) -> list[tuple[Subnet, float]]:
    """Up to `count` distinct subnets within the budget, three of four of them from its useful part. Bounded: a tight budget is
    met by mutating the fastest that were found, a fixed number of times."""
    genomes = np.array([space.sample(rng).genome for _ in range(SAMPLES)])
    ms = latency(genomes)
    for _ in range(TIGHTENINGS):
        if (ms <= budget_ms).sum() >= 2 * count:
            break
        parents = genomes[np.argsort(ms)[:200]]
        chosen = parents[rng.integers(len(parents), size=500)]
        children = np.array([space.mutate(space.subnet(tuple(map(int, row))), rng, 0.2).genome for row in chosen])
        genomes, ms = np.concatenate([genomes, children]), np.concatenate([ms, latency(children)])
    rows = rng.permutation(np.flatnonzero(ms <= budget_ms))
    useful = [i for i in rows if ms[i] >= USEFUL_SHARE * budget_ms]
    others = [i for i in rows if ms[i] < USEFUL_SHARE * budget_ms]
    wanted = max(count - count // 4, count - len(others))
    rows_kept = useful[:wanted] + others[: count - min(len(useful), wanted)]
    found = {space.subnet(tuple(map(int, genomes[i]))): float(ms[i]) for i in rows_kept}
    return list(found.items())


def neighbourhood(
    space: SearchSpace, latency: LatencyFunction, exploration: Exploration, budget_ms: float, count: int, seed: int
) -> list[Subnet]:
    """The best of an exploration and their crossed, mutated and narrowed offspring in the useful part of the budget."""
    rng = np.random.default_rng(seed)
    ranked = sorted(exploration.candidates, key=lambda c: -c.score)
    parents = [c.subnet for c in ranked[: max(4, len(ranked) // PARENTS_SHARE)]]
    found = dict.fromkeys(parents)
    for _ in range(20):  # bounded: a narrow space may not have `count` of them
        pairs = rng.integers(len(parents), size=(count, 2))
        children = [
            exploration.narrowing.project(
                space, space.mutate(space.crossover(parents[a], parents[b], rng), rng, 0.05), rng
            )
            for a, b in pairs
        ]
        ms = latency(np.array([child.genome for child in children]))
        inside = (ms <= budget_ms) & (ms >= USEFUL_SHARE * budget_ms)
        found |= dict.fromkeys(child for child, keep in zip(children, inside, strict=True) if keep)
        if len(found) >= count:
            break
    return list(found)[:count]
