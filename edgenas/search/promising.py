"""Which of the candidates of a search are worth training on their own.

A supernet that was trained for few epochs says too little of what its larger subnets become: they have the most left to learn. Of 30
networks of the mobile space, each trained alone (tools/bench_rank.py), the supernet's accuracy ranked with Kendall's tau 0.45, MACs
with 0.47, and both together, each in its standard deviations, with 0.69; among those of about the same latency 0.54, 0.28 and 0.63. Of
21 with a later supernet it was 0.45, 0.44 and 0.56.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from edgenas.search.evaluations import Candidate
from edgenas.search.space_features import features_of
from edgenas.spaces.space import SearchSpace, Subnet

DIFFERENT_GENES = 2  # from every other one: of near copies one is enough


def promise(space: SearchSpace, evaluated: Sequence[Candidate]) -> np.ndarray:
    """(N,), higher is better: of scores from shared weights and live MACs; a score after training of their own needs no help."""
    scores = np.array([candidate.score for candidate in evaluated])
    if any(candidate.rung for candidate in evaluated) or len(scores) == 0:
        return scores
    sizes = features_of(space).log_size(space, [candidate.subnet for candidate in evaluated], "MACs")
    return _standardised(scores) + _standardised(sizes)


def most_promising(
    evaluated: Sequence[Candidate], count: int, promise: Sequence[float] | np.ndarray | None = None
) -> list[Candidate]:
    """Up to `count` by falling score, or in turns by falling `promise` (N,) and by falling score; each some genes away from those
    before it, near copies only where nothing else is left."""
    ranked = sorted(evaluated, key=lambda candidate: -candidate.score)
    if promise is not None:
        by_promise = [evaluated[i] for i in np.argsort(-np.asarray(promise), kind="stable")]
        ranked = list(dict.fromkeys(chain.from_iterable(zip(by_promise, ranked, strict=True))))
    chosen: list[Candidate] = []
    for candidate in ranked:
        if all(_distance(candidate.subnet, other.subnet) >= DIFFERENT_GENES for other in chosen):
            chosen.append(candidate)
    copies = [candidate for candidate in ranked if candidate not in chosen]
    return [*chosen, *copies][:count]


def _standardised(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean()) / (values.std() or 1.0))


def _distance(one: Subnet, other: Subnet) -> int:
    return sum(a != b for a, b in zip(one.genome, other.genome, strict=True))
