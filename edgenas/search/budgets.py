"""Limits besides the latency on one device, for a search that knows only that latency: what breaks one counts as over the latency
budget, by as much.

So whatever ranks, tightens or mutates by latency moves towards what fits, and a subnet that fits keeps its own latency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.network.graph import Network
from edgenas.search.explore import LatencyFunction, feasible
from edgenas.spaces.space import SearchSpace


@dataclass(frozen=True)
class Budget:
    """`name` and `unit` as people say them; `of` gives a network's value in that unit."""

    flag: str
    name: str
    unit: str
    limit: float
    of: Callable[[Network], float]

    def asking(self, value: float) -> str:
        """The option that asks for this value."""
        return f"{self.flag} {value:.3g}"


@dataclass(frozen=True)
class LatencyLimit:
    """The latency budget of one device; `latency` gives what is predicted for it. `flag` is all that stands before the number, `key`
    tells apart where the predictions come from."""

    flag: str
    name: str
    limit: float
    latency: LatencyFunction
    key: str = ""
    unit: str = "ms"

    def asking(self, value: float) -> str:
        return f"{self.flag}{value:.3g}"


class Shares:
    """How much of each limit subnets take, above 1 being over it: those of `budgets` first, then those of `latencies`. Each subnet's
    network is looked at once."""

    def __init__(
        self, space: SearchSpace, budgets: Sequence[Budget] = (), latencies: Sequence[LatencyLimit] = ()
    ) -> None:
        self.space, self.budgets, self.latencies = space, tuple(budgets), tuple(latencies)
        self._of_networks: dict[tuple[int, ...], list[float]] = {}

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """(N, genes) integers -> (N, limits)."""
        shares = np.empty((len(genomes), len(self.budgets) + len(self.latencies)))
        if self.budgets:
            shares[:, : len(self.budgets)] = [self._of_network(tuple(map(int, row))) for row in genomes]
        for column, each in enumerate(self.latencies, start=len(self.budgets)):
            shares[:, column] = each.latency(genomes) / each.limit
        return shares

    def _of_network(self, genome: tuple[int, ...]) -> list[float]:
        if genome not in self._of_networks:
            network = self.space.network(self.space.subnet(genome))
            self._of_networks[genome] = [budget.of(network) / budget.limit for budget in self.budgets]
        return self._of_networks[genome]


class WithinBudgets:
    """A latency function that is over `budget_ms` wherever another budget, or the latency budget of another device, is broken."""

    def __init__(
        self,
        space: SearchSpace,
        latency: LatencyFunction,
        budgets: Sequence[Budget],
        budget_ms: float,
        elsewhere: Sequence[LatencyLimit] = (),
    ) -> None:
        self.latency, self.budget_ms = latency, budget_ms
        self.shares = Shares(space, budgets, elsewhere)

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """(N, genes) integers -> (N,) ms."""
        ms = self.latency(genomes)
        excess = self.shares(genomes).max(axis=1, initial=0)
        return np.where(excess > 1, np.maximum(ms, self.budget_ms * (1 + 1e-6)) * np.maximum(excess, 1), ms)

    def where_it_is_tightest(self, genomes: np.ndarray) -> np.ndarray:
        """(N, genes) integers -> (N,) ms: the latency that takes as large a share of `budget_ms` as a subnet takes on the device where
        that is the largest. Of two devices the slower one decides which subnets make use of the budgets."""
        elsewhere = self.shares(genomes)[:, len(self.shares.budgets) :].max(axis=1, initial=0)
        return np.maximum(self(genomes), elsewhere * self.budget_ms)


def closest(networks: list[Network], budgets: tuple[Budget, ...]) -> Mapping[str, float]:
    """The lowest value of each budget's metric that some network reaches."""
    return {budget.flag: min(budget.of(network) for network in networks) for budget in budgets}


@dataclass(frozen=True)
class Closest:
    """(limits,) shares: with `others_met` the smallest of each that was found where all others are met (NaN where that is nowhere),
    else those of the subnet that is the least over."""

    shares: np.ndarray
    others_met: bool


def closest_together(shares: Shares, rng: np.random.Generator) -> Closest | None:
    """None if some subnet meets all limits. Bounded, as `feasible` is."""
    seen: list[np.ndarray] = []

    def largest(genomes: np.ndarray) -> np.ndarray:
        seen.append(shares(genomes))
        return np.asarray(seen[-1].max(axis=1))

    if feasible(shares.space, largest, 1.0, 1, rng):
        return None
    found = np.concatenate(seen)
    others = np.stack([np.delete(found, i, axis=1).max(axis=1, initial=0) for i in range(found.shape[1])], axis=1)
    reached = np.where(others <= 1, found, np.inf).min(axis=0)
    if np.isfinite(reached).any():
        return Closest(np.where(np.isfinite(reached), reached, np.nan), True)
    return Closest(found[found.max(axis=1).argmin()], False)
