"""Which candidates are trained on their own, and how they drop out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgenas.search.evaluations import Candidate
from edgenas.search.halving import successive_halving
from edgenas.search.promising import DIFFERENT_GENES, most_promising, promise
from edgenas.spaces.mobile import for_data
from edgenas.spaces.space import Subnet

GENOMES = st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=1, max_size=30, unique=True)
ENTRANTS = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(lambda n: sorted(n, reverse=True))


def candidates(genomes: list[tuple[int, ...]], seed: int) -> list[Candidate]:
    scores = np.random.default_rng(seed).random(len(genomes))
    return [Candidate(Subnet("s", genome), float(score), 1.0) for genome, score in zip(genomes, scores, strict=True)]


@given(GENOMES, st.integers(1, 12), st.integers(0, 99))
def test_the_most_promising_comes_first_and_near_copies_last(
    genomes: list[tuple[int, ...]], count: int, seed: int
) -> None:
    evaluated = candidates(genomes, seed)
    worth = np.random.default_rng(seed + 1).random(len(genomes))
    chosen = most_promising(evaluated, count, worth)
    assert len(chosen) == len(set(chosen)) == min(count, len(evaluated))
    assert chosen[0] == evaluated[int(worth.argmax())]

    def differs(one: Candidate, other: Candidate) -> bool:
        return sum(a != b for a, b in zip(one.subnet.genome, other.subnet.genome, strict=True)) >= DIFFERENT_GENES

    copies = [c for i, c in enumerate(chosen) if not all(differs(c, other) for other in chosen[:i])]
    assert chosen[len(chosen) - len(copies) :] == copies
    if copies:  # nothing that differs from all was left out
        apart = chosen[: len(chosen) - len(copies)]
        assert all(c in chosen or not all(differs(c, other) for other in apart) for c in evaluated)


@given(st.integers(1, 9), ENTRANTS, st.integers(0, 99))
def test_the_better_ones_go_on(count: int, entrants: list[int], seed: int) -> None:
    scores = np.random.default_rng(seed).random((len(entrants), count))
    trained: list[tuple[int, int]] = []

    def train(entered: list[int], rung: int) -> list[float]:
        trained.extend((candidate, rung) for candidate in entered)
        return [float(scores[rung, candidate]) for candidate in entered]

    standings = successive_halving(range(count), entrants, train)
    for rung, limit in enumerate(entrants):
        entered = [candidate for candidate, at in trained if at == rung]
        assert len(entered) == len(set(entered)) == min(limit, count)
        if rung == 0:
            assert entered == list(range(count))[:limit]
        else:
            before = [candidate for candidate, at in trained if at == rung - 1]
            left_out = set(before) - set(entered)
            assert all(scores[rung - 1, a] >= scores[rung - 1, b] for a in entered for b in left_out)
    assert sorted(each.candidate for each in standings) == list(range(count))[: entrants[0]]
    lengths = [len(each.scores) for each in standings]
    assert lengths == sorted(lengths, reverse=True)
    best = standings[0]
    assert best.scores[-1] == max(each.scores[-1] for each in standings if len(each.scores) == len(entrants))
    assert all(each.scores == tuple(scores[: len(each.scores), each.candidate]) for each in standings)


def test_the_most_accurate_is_one_of_two_though_it_promises_the_least() -> None:
    evaluated = candidates([(0, 0, 0, 0), (1, 1, 0, 0), (2, 2, 2, 2)], 0)
    best = max(evaluated, key=lambda candidate: candidate.score)
    assert most_promising(evaluated, 2, [-candidate.score for candidate in evaluated])[1] == best


class TestPromise:
    def test_of_two_that_score_the_same_the_larger(self) -> None:
        space = for_data(28, 1, 10)
        large, small = space.largest(), space.smallest()[0]
        evaluated = [Candidate(small, 0.7, 1.0), Candidate(large, 0.7, 2.0), Candidate(small, 0.8, 1.0)]
        first, second, _ = promise(space, evaluated)
        assert second > first

    def test_what_was_trained_on_its_own_is_judged_by_its_score(self) -> None:
        space = for_data(28, 1, 10)
        evaluated = [Candidate(space.largest(), 0.7, 2.0, 1), Candidate(space.smallest()[0], 0.8, 1.0, 1)]
        assert promise(space, evaluated).tolist() == [0.7, 0.8]
