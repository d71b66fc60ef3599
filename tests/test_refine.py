"""Newcomers that join the finalists in short trainings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgenas.pipeline.finalists import measured
from edgenas.search.refine import MARGIN, TOGETHER, Room, refined
from edgenas.spaces.space import Subnet
from tests.tiny_space import SPACE


def latency(genomes: np.ndarray) -> np.ndarray:
    """The more of everything, the slower; 1 ms for the least."""
    return np.asarray(1.0 + genomes.sum(axis=1))


def room(budget_ms: float) -> Room:
    return Room(latency, budget_ms, lambda subnets: subnets, "")


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


def test_where_another_budget_is_the_tighter_one_children_go_without_using_this_one_up(start: list[Subnet]) -> None:
    """Nothing that meets the other takes 60 % of this one."""
    generous = 4 * slowest()
    other = 0.6 * slowest()

    def within(genomes: np.ndarray) -> np.ndarray:
        return np.where(latency(genomes) <= other, latency(genomes), 2 * generous)

    train = Trainer()
    refined(SPACE, start, Room(within, generous, lambda subnets: subnets, ""), 20, train, 0)
    assert len(train.everyone) == len(start) + 20
    assert (latency(np.array([each.genome for each in train.everyone[len(start) :]])) <= other).all()


def test_where_hardly_any_fit_there_are_fewer(start: list[Subnet]) -> None:
    """The search ends instead of going over the budget."""
    train = Trainer()
    least = min(float(latency(np.array([each.genome]))[0]) for each in SPACE.smallest())
    refined(SPACE, start, room(least / MARGIN), 20, train, 0)
    newcomers = train.everyone[len(start) :]
    assert len(newcomers) < 20
    assert all(latency(np.array([each.genome]))[0] <= least for each in newcomers)


def test_of_those_near_the_top_newcomers_that_take_too_long_are_left_out(start: list[Subnet]) -> None:
    """The others aren't measured: they don't go on, or were measured when they were found."""
    rng = np.random.default_rng(4)
    new = [subnet for subnet in dict.fromkeys(SPACE.sample(rng) for _ in range(12)) if subnet not in start][:6]
    asked: list[Subnet] = []

    def fitting(subnets: Sequence[Subnet]) -> list[Subnet]:
        asked.extend(subnets)
        return list(subnets[1:])

    ranked = [new[0], start[0], new[1], start[1], *new[2:], *start[2:]]
    found = measured(ranked, 2, start, Room(latency, 1.0, fitting, ""))
    assert asked == new[:2]
    assert found == ranked[1:]


def test_measuring_goes_on_until_enough_fit(start: list[Subnet]) -> None:
    """Of what went on unmeasured one might win, and miss the budget."""
    rng = np.random.default_rng(4)
    new = [subnet for subnet in dict.fromkeys(SPACE.sample(rng) for _ in range(30)) if subnet not in start][:12]
    asked: list[Subnet] = []

    def fitting(subnets: Sequence[Subnet]) -> list[Subnet]:
        asked.extend(subnets)
        return [subnet for subnet in subnets if subnet in new[5:]]

    found = measured([*new, *start], 2, start, Room(latency, 1.0, fitting, ""))
    assert asked == new[:8], "four at a time"
    assert found == [*new[5:], *start]
