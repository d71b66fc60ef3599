"""The search on a space whose accuracies and latencies are known, so that what it should find is known too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.network.costs import macs
from edgenas.pareto import hypervolume, non_dominated
from edgenas.search.evaluations import Candidate, Evaluations
from edgenas.search.explore import explore, feasible, neighbourhood
from edgenas.search.gene_regression import GeneRegression
from edgenas.search.narrow import everything, narrow
from edgenas.search.run import SearchResult, search
from edgenas.search.strategy import Problem, SearchRule
from edgenas.spaces.mobile import for_data
from edgenas.spaces.space import Subnet

SPACE = for_data(28, 1, 10)
RULE = SearchRule(explored=40, neighbours=30, start=24, population=16, evaluations=120)
points = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20)


def latency(genomes: np.ndarray) -> np.ndarray:
    """Milliseconds: a microsecond per 100,000 MACs."""
    return np.array([macs(SPACE.network(SPACE.subnet(tuple(map(int, g))))) / 1e8 for g in genomes])


def accuracy(subnet: Subnet) -> float:
    """More MACs are better, with less and less effect; another type of block is worth two points in each stage."""
    stages = [line for line in SPACE.describe(subnet) if line.startswith("stage")]
    right = sum(kind in line for kind, line in zip(("mbconv", "residual", "plain"), stages, strict=True))
    return 0.6 + 0.04 * np.log10(macs(SPACE.network(subnet)) / 1e5) + 0.02 * right


@given(points)
def test_the_front_is_what_nothing_dominates(found: list[tuple[float, float]]) -> None:
    array = np.array(found)
    front = array[non_dominated(array)]
    for point in array:
        dominated = ((array <= point).all(axis=1) & (array < point).any(axis=1)).any()
        assert dominated != any((front == point).all(axis=1))


@given(points, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_one_more_point_never_takes_volume_away(found: list[tuple[float, float]], more: tuple[float, float]) -> None:
    before, after = (hypervolume(np.array(p), (1.0, 1.0)) for p in (found, [*found, more]))
    assert after >= before - 1e-12
    assert hypervolume(np.array([[0.25, 0.5], [0.5, 0.25]]), (1.0, 1.0)) == pytest.approx(0.75 * 0.5 + 0.5 * 0.25)


def run(folder: Path, budget_ms: float, seed: int = 0) -> SearchResult:
    log = Evaluations(folder / "log.jsonl", accuracy)
    found = explore(SPACE, latency, log, budget_ms, RULE.explored, seed)
    assert found is not None
    start = neighbourhood(SPACE, latency, found, budget_ms, RULE.neighbours, seed)
    problem = Problem(SPACE, latency, budget_ms, tuple(start[: RULE.start]), found.narrowing, RULE, seed)
    return search(problem, "evolution", log.scores)


def test_it_beats_as_many_random_subnets_and_keeps_the_budget(tmp_path: Path) -> None:
    budget = 0.05
    result = run(tmp_path, budget)
    assert all(c.latency_ms <= budget for c in result.evaluated)
    assert len(result.evaluated) <= RULE.evaluations
    rng = np.random.default_rng(1)
    drawn = feasible(SPACE, latency, budget, 160, rng)
    best_random = max(accuracy(subnet) for subnet, _ in drawn)
    assert max(c.score for c in result.front) > best_random


def test_the_same_seed_takes_the_same_path_with_or_without_a_break(tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole", 0.05)
    lines = (tmp_path / "whole" / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "broken" / "log.jsonl").write_text("".join(lines[:50]) + lines[50][:7])  # killed while writing a line
    assert run(tmp_path / "broken", 0.05) == whole
    assert (tmp_path / "broken" / "log.jsonl").read_text() == "".join(lines)


def test_a_budget_that_nothing_meets_ends(tmp_path: Path) -> None:
    def far_over(genomes: np.ndarray) -> np.ndarray:
        return np.asarray(genomes.sum(axis=1) + 1.0)

    log = Evaluations(tmp_path / "log.jsonl", accuracy)
    assert explore(SPACE, far_over, log, 1e-9, 10, 0) is None
    problem = Problem(SPACE, far_over, 1e-9, (SPACE.largest(),), everything(SPACE), RULE, 0)
    result = search(problem, "evolution", log.scores)
    assert result.front == ()
    assert "budget" in result.stopped


def test_time_ends_it(tmp_path: Path) -> None:
    log = Evaluations(tmp_path / "log.jsonl", accuracy)
    start = tuple(subnet for subnet, _ in feasible(SPACE, latency, 0.05, 20, np.random.default_rng(0)))
    problem = Problem(SPACE, latency, 0.05, start, everything(SPACE), RULE, 0)
    result = search(problem, "evolution", log.scores, out_of_time=lambda: True)
    assert len(result.evaluated) == len(start)
    assert result.stopped == "the time was up"


def test_evidence_drops_an_option_that_is_worse_and_keeps_what_is_not() -> None:
    rng = np.random.default_rng(0)
    subnets = {SPACE.sample(rng) for _ in range(150)}

    def without_plain(subnet: Subnet) -> float:
        plain = sum("x plain" in line for line in SPACE.describe(subnet))
        return 0.8 - 0.05 * plain + float(rng.normal(0, 0.005))

    evidence = [Candidate(s, without_plain(s), float(latency(np.array([s.genome]))[0])) for s in subnets]
    narrowing = narrow(SPACE, evidence)
    types = [narrowing.allowed[3 + 5 * i] for i in range(3)]
    plain = SPACE.stages[0].types.index("plain")
    assert all(plain not in kept and kept for kept in types)
    projected = narrowing.project(SPACE, SPACE.smallest()[0], rng)
    assert not any("x plain" in line for line in SPACE.describe(projected))


@pytest.mark.parametrize("count", [5, 400])
def test_genes_that_are_worth_something_are_learnt(count: int) -> None:
    """From fewer candidates than there are options, and from more: the ridge's minimum, found another way."""
    rng, radix = np.random.default_rng(0), (3, 4, 2)
    genomes = np.stack([rng.integers(options, size=count) for options in radix], axis=1)
    ms = rng.uniform(0.5, 2, count)
    scores = 0.1 * genomes[:, 0] - 0.05 * (genomes[:, 1] == 2) + 0.02 * np.log(ms)
    evidence = [
        Candidate(Subnet("s", tuple(map(int, genome))), float(score), float(each))
        for genome, score, each in zip(genomes, scores, ms, strict=True)
    ]
    learnt = GeneRegression(radix, evidence)
    one_hot = np.concatenate([np.eye(options)[genomes[:, gene]] for gene, options in enumerate(radix)], axis=1)
    design = np.concatenate([one_hot, np.log(ms)[:, None]], axis=1)
    centred = np.concatenate([design - design.mean(axis=0), np.eye(design.shape[1])])
    worth, *_ = np.linalg.lstsq(centred, np.append(scores - scores.mean(), np.zeros(design.shape[1])), rcond=None)
    expected = scores.mean() + (design - design.mean(axis=0)) @ worth
    np.testing.assert_allclose(learnt.predict(genomes, ms), expected, atol=1e-9)
    if count > sum(radix):
        np.testing.assert_allclose(learnt.predict(genomes, ms), scores, atol=0.01)


def test_neighbours_lie_in_the_useful_part_of_the_budget(tmp_path: Path) -> None:
    log = Evaluations(tmp_path / "log.jsonl", accuracy)
    found = explore(SPACE, latency, log, 0.05, 40, 0)
    assert found is not None
    near = neighbourhood(SPACE, latency, found, 0.05, 30, 0)
    assert len(near) == len(set(near)) == 30
    children = [s for s in near if s not in {c.subnet for c in found.candidates}]
    assert children
    assert all(0.03 <= ms <= 0.05 for ms in latency(np.array([s.genome for s in children])))
