"""The differentiable strategy on problems whose best answer is known: every cell can be looked at."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from edgenas.errors import InputError
from edgenas.search.narrow import Narrowing
from edgenas.search.run import SearchResult, search
from edgenas.search.strategies import differentiable
from edgenas.search.strategies.differentiable import fitted_latency, trained_logits
from edgenas.search.strategy import Problem
from edgenas.spaces.cell import NAS_BENCH_201
from edgenas.spaces.space import Subnet
from tests.landscapes import SMALL_CELL, SPACES, Landscape


def loss_of(land: Landscape) -> Callable[[np.ndarray], float]:
    """The landscape's loss of a mix of options, which for a subnet is that of the subnet."""
    return lambda mixed: land.relaxation(mixed)[0]


def one_hot(problem: Problem, genomes: np.ndarray) -> np.ndarray:
    offsets = np.concatenate([[0], np.cumsum(problem.space.radix())])
    design = np.zeros((len(genomes), offsets[-1]))
    design[np.arange(len(genomes))[:, None], offsets[:-1] + genomes] = 1
    return design


def run(land: Landscape, problem: Problem) -> SearchResult:
    loss = loss_of(land)

    def score(subnet: Subnet) -> float:
        return -loss(one_hot(problem, np.array([subnet.genome]))[0])

    return search(problem, "differentiable", partial(map, score))


def everything_within(problem: Problem) -> np.ndarray:
    genomes = np.array(list(itertools.product(*(range(options) for options in problem.space.radix()))))
    return genomes[problem.latency(genomes) <= problem.budget_ms]


@pytest.mark.parametrize("share", [0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_least_loss_under_the_latency_budget(seed: int, share: float) -> None:
    """Of 15,625 cells; the fit of log latency leads there, the predictor decides, and a random search would need a thousand queries."""
    land = Landscape(NAS_BENCH_201, seed)
    problem = land.problem(share=share, seed=seed)
    losses = np.sort([loss_of(land)(mixed) for mixed in one_hot(problem, everything_within(problem))])
    result = run(land, problem)
    found = -max(candidate.score for candidate in result.evaluated)
    assert found <= losses[len(losses) // 500] + 1e-9
    assert all(candidate.latency_ms <= problem.budget_ms for candidate in result.evaluated)


def test_the_price_of_latency_is_what_keeps_it_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    land = Landscape(NAS_BENCH_201, 0)
    problem = land.problem(share=0.1)

    def likeliest() -> float:
        parts = np.split(trained_logits(problem, land.relaxation), np.cumsum(problem.space.radix())[:-1])
        return float(problem.latency(np.array([[int(np.argmax(part)) for part in parts]]))[0])

    assert likeliest() < 1.1 * problem.budget_ms
    monkeypatch.setattr(differentiable, "LATENCY_PRICE", 0.0)
    assert likeliest() > 1.5 * problem.budget_ms


def test_costs_that_multiply_are_fitted_exactly() -> None:
    """Such as those of width and depth."""
    problem = Landscape(SMALL_CELL, 0).problem()
    factors = np.random.default_rng(0).uniform(0.5, 2, (len(SMALL_CELL.radix()), max(SMALL_CELL.radix())))

    def latency(genomes: np.ndarray) -> np.ndarray:
        return np.asarray(factors[np.arange(genomes.shape[1]), genomes].prod(axis=1))

    problem = replace(problem, latency=latency, budget_ms=1.5)
    weights, constant = fitted_latency(problem, np.random.default_rng(0))
    genomes = np.array([problem.space.sample(np.random.default_rng(i)).genome for i in range(50)])
    assert np.allclose(one_hot(problem, genomes) @ weights + constant, np.log(latency(genomes) / 1.5), atol=1e-3)


def test_what_the_evidence_dropped_is_not_mixed_in() -> None:
    land = Landscape(SMALL_CELL, 1)
    kept = tuple((gene, gene + 1) for gene in range(len(SMALL_CELL.radix())))
    problem = replace(land.problem(share=0.9), narrowing=Narrowing(kept))
    mixes: list[np.ndarray] = []

    def watched(mixed: np.ndarray) -> tuple[float, np.ndarray]:
        mixes.append(mixed)
        return land.relaxation(mixed)

    logits = trained_logits(problem, watched)
    allowed = np.concatenate([np.isin(np.arange(5), options) for options in kept])
    assert np.isfinite(logits[allowed]).all()
    assert np.isneginf(logits[~allowed]).all()
    for mixed in mixes:
        assert not mixed[~allowed].any()
        assert np.allclose([part.sum() for part in np.split(mixed, 3)], 1)
    first = differentiable.strategy(replace(problem, relaxation=watched)).ask().subnets[0]
    assert all(gene in options for gene, options in zip(first.genome, kept, strict=True))


def test_mixing_ends_as_choosing() -> None:
    land = Landscape(SMALL_CELL, 2)
    mixes: list[np.ndarray] = []

    def watched(mixed: np.ndarray) -> tuple[float, np.ndarray]:
        mixes.append(mixed)
        return land.relaxation(mixed)

    trained_logits(land.problem(), watched)
    largest = [np.mean([part.max() for part in np.split(mixed, 3)]) for mixed in mixes]
    assert np.mean(largest[:20]) < 0.5
    assert np.mean(largest[-20:]) > 0.9


def test_nothing_is_trained_for_a_budget_that_nothing_meets() -> None:
    def never(mixed: np.ndarray) -> tuple[float, np.ndarray]:
        raise AssertionError("trained, though nothing can be proposed")

    land = Landscape(SMALL_CELL, 0)
    result = run(land, land.problem(budget_ms=1e-6, relaxation=never))
    assert result.evaluated == ()
    assert "budget" in result.stopped


def test_the_same_seed_takes_the_same_path_and_another_one_another() -> None:
    land = Landscape(NAS_BENCH_201, 3)
    one, again, other = (run(land, land.problem(seed=seed)) for seed in (4, 4, 5))
    assert one == again
    assert [c.subnet for c in one.evaluated] != [c.subnet for c in other.evaluated]


@pytest.mark.parametrize("name", ["mobile", "tree"])
def test_a_space_whose_choices_cant_be_mixed_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="mixes the operations of a supernet, which only one of a cell space can do"):
        search(Landscape(SPACES[name], 0).problem(), "differentiable", partial(map, lambda subnet: 0.0))
