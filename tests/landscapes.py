"""Search problems whose latencies and accuracies are made up, quick and known exactly: what strategies are tried on.

Options that cost more are worth more, by and large and less and less so, and neighbouring genes go better or worse together. No network
is built and torch is not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from edgenas.search.narrow import everything
from edgenas.search.run import SearchResult, search
from edgenas.search.strategy import Problem, SearchRule
from edgenas.spaces.cell import NAS_BENCH_201, CellSpace
from edgenas.spaces.space import SearchSpace, Subnet
from edgenas.spaces.tree import for_data as tree_for_data
from tests.tiny_space import SPACE as TINY

RULE = SearchRule(start=8, population=12, evaluations=60, patience=60)
SMALL_CELL = CellSpace("small-cell", 3, NAS_BENCH_201.operations, 3, 32, 10, (16, 32), 1)  # 125 of them
SPACES: dict[str, SearchSpace] = {"mobile": TINY, "cell": NAS_BENCH_201, "tree": tree_for_data(28, 1, 10)}
RUNGS = (8, 4)


@dataclass(frozen=True)
class Landscape:
    """`seed` decides what every option costs and is worth, `blur` how far off the supernet is (standard deviation, in accuracy)."""

    space: SearchSpace
    seed: int
    blur: float = 0.01

    def latency(self, genomes: np.ndarray) -> np.ndarray:
        """(N, genes) -> (N,) ms."""
        return np.asarray(self._cost[np.arange(genomes.shape[1]), genomes].sum(axis=1))

    def accuracy(self, subnet: Subnet) -> float:
        """As if trained to the end."""
        genome = np.array(subnet.genome)
        alone = self._worth[np.arange(len(genome)), genome].mean()
        together = self._together[np.arange(len(genome) - 1), genome[:-1], genome[1:]].mean()
        return float(0.5 + 0.4 * np.tanh(alone + 0.25 * together))

    def score(self, subnet: Subnet) -> float:
        """From a supernet: a little off, always by the same."""
        return self.accuracy(subnet) + self.blur * float(np.random.default_rng(int(subnet.id, 16)).normal())

    def trained(self, subnet: Subnet, rung: int) -> float:
        """After the length of training of that rung, from 1 on: less off, and higher, the longer."""
        off = float(np.random.default_rng([int(subnet.id, 16), rung]).normal())
        return self.accuracy(subnet) + 0.02 * rung + self.blur * off / 3**rung

    def relaxation(self, mixed: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss falls with the options' own worth."""
        worth = np.concatenate([self._worth[gene, :count] for gene, count in enumerate(self.space.radix())])
        genes = len(self.space.radix())
        return float(1 - mixed @ worth / genes), -worth / genes

    def budget_ms(self, share: float) -> float:
        """That about this share of the space's samples meets."""
        rng = np.random.default_rng(0)
        return float(np.quantile(self.latency(np.array([self.space.sample(rng).genome for _ in range(500)])), share))

    def problem(self, rule: SearchRule = RULE, *, share: float = 0.3, seed: int = 0, **changed: object) -> Problem:
        offers = {"relaxation": self.relaxation} if isinstance(self.space, CellSpace) else {}
        found = Problem(
            self.space,
            self.latency,
            self.budget_ms(share),
            (),
            everything(self.space),
            rule,
            seed,
            rungs=RUNGS,
            **offers,
        )
        return replace(found, **changed)  # type: ignore[arg-type]

    @cached_property
    def _rng_tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng, radix = np.random.default_rng(self.seed), self.space.radix()
        shape = (len(radix), max(radix))
        cost = rng.uniform(0.05, 1, shape)
        worth = np.sqrt(cost) + 0.5 * rng.normal(size=shape)
        return cost, worth, rng.normal(size=(len(radix) - 1, max(radix), max(radix)))

    @property
    def _cost(self) -> np.ndarray:
        return self._rng_tables[0]

    @property
    def _worth(self) -> np.ndarray:
        return self._rng_tables[1]

    @property
    def _together(self) -> np.ndarray:
        return self._rng_tables[2]


def run(
    landscape: Landscape,
    problem: Problem,
    strategy: str,
    logged: Callable[..., Any] = lambda score, rung: score,
    **options: Any,
) -> SearchResult:
    """A search of the landscape. `logged` may wrap each of its scores: that of rung 0, the supernet's, and those after training."""
    scores = [landscape.score, *(partial(landscape.trained, rung=rung) for rung in range(1, len(RUNGS) + 1))]
    supernet, *trained = (partial(map, logged(score, rung)) for rung, score in enumerate(scores))
    return search(problem, strategy, supernet, trained, **options)
