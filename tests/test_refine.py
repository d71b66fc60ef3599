"""Newcomers that join the finalists in short trainings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgenas.search.refine import MARGIN, TOGETHER, Room, refined
from edgenas.spaces.space import Subnet
from tests.tiny_space import SPACE


def latency(genomes: np.ndarray) -> np.ndarray:
    """The more of everything, the slower; 1 ms for the least."""
    return np.asarray(1.0 + genomes.sum(axis=1))


def room(budget_ms: float) -> Room:
    return Room(latency, budget_ms, "")


def worth(subnet: Subnet) -> float:
    """What the first genes say, whatever that costs."""
    return float(sum(subnet.genome[:4]) - sum(subnet.genome[4:]))


class Trainer:
    def __init__(self) -> None:
        self.rounds: list[tuple[Subnet, ...]] = []

    def __call__(self, subnets: Sequence[Subnet]) -> list[float]:
        self.rounds.append(tuple(subnets))
        return [worth(subnet) for subnet in subnets]

    @property
    def everyone(self) -> list[Subnet]:
        return [subnet for entered in self.rounds for subnet in entered]


def slowest() -> float:
    return float(latency(np.array([SPACE.largest().genome]))[0])


@pytest.fixture
def start() -> list[Subnet]:
    rng = np.random.default_rng(3)
    return list(dict.fromkeys(SPACE.sample(rng) for _ in range(4)))


@pytest.mark.parametrize("seed", range(5))
def test_newcomers_are_new_within_the_budget_and_as_many_as_asked(start: list[Subnet], seed: int) -> None:
    train, budget_ms = Trainer(), 0.6 * slowest()
    found = refined(SPACE, start, room(budget_ms), 20, train, seed)
    assert train.rounds[0] == tuple(start)
    newcomers = train.everyone[len(start) :]
    assert len(set(train.everyone)) == len(train.everyone) == len(start) + 20
    assert (latency(np.array([each.genome for each in newcomers])) <= MARGIN * budget_ms).all()
    assert max(map(len, train.rounds[2:])) <= TOGETHER  # after the finalists and the random ones
    assert sorted(found, key=str) == sorted(train.everyone, key=str)


def test_the_best_come_first_and_are_better_than_random_ones(start: list[Subnet]) -> None:
    train, budget_ms = Trainer(), 0.6 * slowest()
    found = refined(SPACE, start, room(budget_ms), 40, train, 0)
    scores = [worth(subnet) for subnet in found]
    assert scores == sorted(scores, reverse=True)
    random, bred = train.rounds[1], train.rounds[-1]
    assert np.mean([worth(subnet) for subnet in bred]) > np.mean([worth(subnet) for subnet in random])


def test_the_same_seed_trains_the_same(start: list[Subnet]) -> None:
    trained = []
    for _ in range(2):
        train = Trainer()
        refined(SPACE, start, room(0.6 * slowest()), 20, train, 7)
        trained.append(train.rounds)
    assert trained[0] == trained[1]


def test_where_hardly_any_fit_there_are_fewer(start: list[Subnet]) -> None:
    """The search ends instead of going over the budget."""
    train = Trainer()
    least = min(float(latency(np.array([each.genome]))[0]) for each in SPACE.smallest())
    refined(SPACE, start, room(least / MARGIN), 20, train, 0)
    newcomers = train.everyone[len(start) :]
    assert len(newcomers) < 20
    assert all(latency(np.array([each.genome]))[0] <= least for each in newcomers)
