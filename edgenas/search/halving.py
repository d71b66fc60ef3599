"""Successive halving: all candidates are trained a little, the better ones a little more.

Karnin et al., ICML 2013; Jamieson & Talwalkar, AISTATS 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Standing(Generic[T]):
    """A candidate and its score after each rung that it took part in; higher is better."""

    candidate: T
    scores: tuple[float, ...]


def rungs(
    candidates: Sequence[T], entrants: Sequence[int]
) -> Generator[tuple[int, tuple[T, ...]], Sequence[float], list[Standing[T]]]:
    """Yields each rung, counted from 0, with those who enter it, and is sent their scores; returns what `successive_halving` does."""
    running = [Standing(candidate, ()) for candidate in candidates[: entrants[0]]]
    dropped: list[Standing[T]] = []
    for rung, count in enumerate(entrants):
        dropped = [*running[count:], *dropped]
        scores = yield rung, tuple(each.candidate for each in running[:count])
        running = [
            Standing(each.candidate, (*each.scores, score)) for each, score in zip(running[:count], scores, strict=True)
        ]
        running.sort(key=lambda each: -each.scores[-1])
    return [*running, *dropped]


def successive_halving(
    candidates: Sequence[T], entrants: Sequence[int], train: Callable[[Sequence[T], int], Sequence[float]]
) -> list[Standing[T]]:
    """`entrants[r]` of the candidates enter rung r (counted from 0): at first in the given order, then the best by their last score;
    equal ones keep their order. `train(entered, r)` trains these on and returns their scores. The best of the last rung come first,
    then those that dropped out, the last of them before the first."""
    running = rungs(candidates, entrants)
    try:
        rung, entered = next(running)
        while True:
            rung, entered = running.send(train(entered, rung))
    except StopIteration as end:
        standings: list[Standing[T]] = end.value
        return standings
