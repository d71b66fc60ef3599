"""The guided search: what it reads off networks, what its model says of accuracies, what it takes for an improvement, and how it
chooses."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.network.costs import macs, params
from edgenas.network.readings import live
from edgenas.pareto import hypervolume
from edgenas.search.accuracy_model import AccuracyModel
from edgenas.search.evaluations import Candidate
from edgenas.search.fresh import Fresh
from edgenas.search.improvement import expected_hypervolume_improvement, expected_improvement
from edgenas.search.network_features import GROUPS, network_features
from edgenas.search.offspring import CHILDREN
from edgenas.search.space_features import SpaceFeatures, features_of
from edgenas.search.strategies import guided, open_strategy
from edgenas.search.strategy import SearchRule
from edgenas.spaces.cell import NAS_BENCH_201, CellSpace
from edgenas.spaces.space import SearchSpace
from tests.landscapes import SPACES, Landscape, run
from tests.test_spaces import EVERY

CELL = CellSpace("one-cell", 4, NAS_BENCH_201.operations, 3, 16, 10, (16, 32), 1)
cell_genomes = st.tuples(*(st.integers(0, count - 1) for count in CELL.radix()))


class TestNetworkFeatures:
    @settings(max_examples=60, deadline=None)
    @given(cell_genomes)
    def test_what_does_nothing_is_not_seen(self, genome: tuple[int, ...]) -> None:
        network = CELL.network(CELL.subnet(genome))
        assert network_features(network) == network_features(live(network))

    @settings(max_examples=60, deadline=None)
    @given(cell_genomes)
    def test_sizes_are_those_of_the_live_graph(self, genome: tuple[int, ...]) -> None:
        left = live(CELL.network(CELL.subnet(genome)))
        size = network_features(left)["size"]
        assert size["MACs"] == pytest.approx(log(max(1, macs(left))))
        assert size["parameters"] == pytest.approx(log(max(1, params(left))))

    def test_two_spellings_of_one_network_have_the_same(self) -> None:
        """A convolution on the way over node 1 or over node 2, and a dead branch."""
        texts = (
            "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|",
            "|none~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|nor_conv_1x1~2|",
            "|nor_conv_3x3~0|+|avg_pool_3x3~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|",
        )
        one, other, dead = (network_features(CELL.network(CELL.parse(text))) for text in texts)
        assert one == other == dead

    def test_a_cell_by_hand(self) -> None:
        found = network_features(
            CELL.network(CELL.parse("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"))
        )
        assert found["operation"]["Conv 3x3"] == 1 + 2 + 1  # stem, one a cell, the second of the reduction
        assert found["order"]["Conv 3x3 > Conv 1x1"] == 2
        assert found["shape"]["identities"] == 2
        assert found["shape"]["depth"] == 1 + 2 + 2 + 2 + 1
        assert found["shape"]["shortest"] == 1 + 1 + 1  # the Identities, and the pooled way past the reduction
        assert found["shape"]["paths"] == pytest.approx(log(2 * 2 * 2))
        assert found["level"]["channels at 1"] == pytest.approx(log(32))

    @pytest.mark.parametrize("name", sorted(EVERY))
    def test_every_space_has_them(self, name: str) -> None:
        space: SearchSpace = EVERY[name].space
        rng = np.random.default_rng(0)
        subnets = list(dict.fromkeys([space.sample(rng) for _ in range(12)]))
        for subnet in subnets:
            found = network_features(space.network(subnet))
            assert tuple(found) == GROUPS
            assert np.isfinite([value for group in found.values() for value in group.values()]).all()
        table = features_of(space).table(space, subnets, np.linspace(1, 2, len(subnets)))
        assert table.values.mean(axis=0) == pytest.approx(0, abs=1e-9)
        assert table.values.std(axis=0) == pytest.approx(1)
        assert sorted(np.concatenate(table.groups).tolist()) == list(range(table.values.shape[1]))
        assert table.values.shape[1] > len(GROUPS) - 2

    @pytest.mark.parametrize("name", ["mobile, 28 px, grey", "cell, 28 px, grey", "tree, 28 px, grey"])
    def test_what_was_looked_at_before_changes_nothing(self, name: str) -> None:
        """A build that goes on in another process must ask for the same."""
        space: SearchSpace = EVERY[name].space
        rng = np.random.default_rng(3)
        others, subnets = ([space.sample(rng) for _ in range(30)] for _ in range(2))
        ms = rng.uniform(1, 2, len(subnets))
        warm = SpaceFeatures()
        warm.values(space, others)
        one, other = warm.table(space, subnets, ms), SpaceFeatures().table(space, subnets, ms)
        np.testing.assert_array_equal(one.values, other.values)
        assert [group.tolist() for group in one.groups] == [group.tolist() for group in other.groups]


def test_choices_stand_beside_what_the_network_says() -> None:
    """Two spellings of one network differ in them alone."""
    spellings = ("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|",)
    spellings += ("|none~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|nor_conv_1x1~2|",)
    subnets = [*map(CELL.parse, spellings), CELL.largest()]
    table = features_of(CELL).table(CELL, subnets, np.array([1.0, 1.0, 2.0]))
    differs = np.flatnonzero(np.abs(table.values[0] - table.values[1]) > 1e-9)
    assert len(differs) > 0
    assert set(differs) <= set(table.groups[-1])


def test_columns_that_say_the_same_are_kept_once() -> None:
    rng = np.random.default_rng(0)
    subnets = list(dict.fromkeys(CELL.sample(rng) for _ in range(200)))
    table = features_of(CELL).table(CELL, subnets, rng.uniform(1, 2, len(subnets)))
    alike = np.abs(np.corrcoef(table.values.T)) - np.eye(table.values.shape[1])
    assert alike.max() < 1 - 1e-9


def points(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6))
    scores = np.tanh(x[:, 0]) + 0.3 * x[:, 1] * x[:, 2] + 0.02 * rng.normal(size=count)
    return x, 0.7 + 0.1 * scores, [np.arange(2), np.arange(2, 3), np.arange(3, 6)]


class TestAccuracyModel:
    def test_it_learns(self) -> None:
        x, scores, groups = points(0, 160)
        model = AccuracyModel(x[:100], scores[:100], groups)
        belief = model.belief(x[100:])
        rest = model.units(scores[100:])
        error = belief.mean - rest
        assert np.sqrt((error**2).mean()) < 0.5 * rest.std()
        assert np.mean(np.abs(error) < 2 * np.sqrt(belief.deviation**2 + model.noise)) > 0.85

    @settings(max_examples=10, deadline=None)
    @given(st.integers(0, 100), st.floats(0.1, 50), st.floats(-10, 10))
    def test_the_unit_of_the_scores_is_nothing_to_it(self, seed: int, scale: float, offset: float) -> None:
        x, scores, groups = points(seed)
        one = AccuracyModel(x[:40], scores[:40], groups).belief(x[40:])
        other = AccuracyModel(x[:40], scale * scores[:40] + offset, groups).belief(x[40:])
        assert other.mean == pytest.approx(one.mean, abs=1e-5)
        assert other.deviation == pytest.approx(one.deviation, abs=1e-5)

    def test_how_bad_the_worst_is_makes_no_difference(self) -> None:
        x, scores, groups = points(1)
        scores[7] = scores.min() - 1
        bad = AccuracyModel(x, scores, groups)
        scores[7] = -50
        assert (AccuracyModel(x, scores, groups).y == bad.y).all()

    def test_it_is_surest_where_it_was_told(self) -> None:
        x, scores, groups = points(2)
        model = AccuracyModel(x, scores, groups)
        far = model.belief(np.full((1, 6), 30.0))
        assert far.mean == pytest.approx(0, abs=1e-3)
        assert far.deviation == pytest.approx(model.variance**0.5, rel=1e-3)
        assert (model.belief(x).deviation < 0.5 * far.deviation).all()

    @pytest.mark.parametrize("scores", [[0.5], [0.5, 0.5, 0.5], [0.1, 0.9]])
    def test_little_evidence_is_no_error(self, scores: list[float]) -> None:
        x = np.random.default_rng(0).normal(size=(9, 3))
        belief = AccuracyModel(x[: len(scores)], np.array(scores), [np.arange(3)]).belief(x)
        assert np.isfinite(belief.mean).all()
        assert (belief.deviation > 0).all()

    def test_what_is_asked_for_counts_as_known(self) -> None:
        """Against the formula with all of them told."""
        x, scores, groups = points(3)
        model = AccuracyModel(x[:30], scores[:30], groups)
        belief = model.belief(x[30:])
        before = belief.mean.copy()
        for which in (4, 9, 4):
            belief.ask(which)
        told = np.concatenate([x[:30], x[[34, 39, 34]]])
        covariance = model.covariance(told, told) + model.noise * np.eye(len(told))
        between = model.covariance(x[30:], told)
        left = model.variance - (between * np.linalg.solve(covariance, between.T).T).sum(axis=1)
        assert belief.deviation**2 == pytest.approx(left, abs=1e-8)
        assert (belief.mean == before).all()


class TestImprovement:
    @settings(max_examples=30, deadline=None)
    @given(st.floats(-2, 2), st.floats(0.05, 2), st.floats(-2, 2))
    def test_of_the_best(self, mean: float, deviation: float, best: float) -> None:
        drawn = mean + deviation * np.random.default_rng(0).normal(size=40_000)
        expected = np.maximum(drawn - best, 0).mean()
        found = expected_improvement(np.array([mean]), np.array([deviation]), best)
        assert found == pytest.approx(expected, abs=0.02 * (1 + deviation))

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 1000))
    def test_of_the_front(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        known = np.column_stack([rng.uniform(0.5, 3.2, 8), rng.normal(size=8)])
        reference = (3.0, -1.0)
        ms, mean, deviation = rng.uniform(0.5, 3, 4), rng.normal(size=4), rng.uniform(0.1, 1, 4)
        found = expected_hypervolume_improvement(mean, deviation, ms, known, reference)
        flipped, corner = known * (1, -1), (reference[0], -reference[1])
        before = hypervolume(flipped, corner)
        z = (np.arange(400) + 0.5) / 400
        from scipy.special import ndtri

        for i in range(4):
            volumes = [
                hypervolume(np.vstack([flipped, [ms[i], -(mean[i] + deviation[i] * each)]]), corner)
                for each in ndtri(z)
            ]
            assert found[i] == pytest.approx(np.mean(volumes) - before, abs=0.01)


def asked(problem: Any, landscape: Landscape, batches: int) -> list[tuple[Any, ...]]:
    strategy, found = open_strategy("guided", problem), []
    for _ in range(batches):
        batch = strategy.ask().subnets
        found.append(batch)
        ms = landscape.latency(np.array([subnet.genome for subnet in batch]))
        strategy.tell([Candidate(s, landscape.score(s), float(m)) for s, m in zip(batch, ms, strict=True)])
    return found


def test_it_begins_with_diverse_large_ones_and_two_strangers() -> None:
    landscape = Landscape(SPACES["mobile"], 0)
    (begin, following) = asked(landscape.problem(), landscape, 2)
    assert len(begin) == guided.DIVERSE + guided.STRANGERS
    assert len(following) == guided.BATCH
    space = landscape.space
    drawn = Fresh(landscape.problem(), np.random.default_rng(0))
    sampled = drawn.draw(200)
    typical = np.median(features_of(space).log_size(space, sampled, "MACs"))
    assert (features_of(space).log_size(space, begin[: guided.DIVERSE], "MACs") > typical).all()


def test_a_start_is_where_it_begins() -> None:
    landscape = Landscape(SPACES["tree"], 0)
    problem = landscape.problem()
    inside = [b for batch in asked(problem, landscape, 3) for b in batch]
    (begin,) = asked(landscape.problem(start=tuple(inside), seed=5), landscape, 1)
    assert len(set(begin[: guided.DIVERSE]) & set(inside)) == guided.DIVERSE


def test_it_goes_on_after_what_is_known_already() -> None:
    """What of that is over the budget is learnt from, and not asked for."""
    landscape = Landscape(SPACES["mobile"], 0)
    problem, rng = landscape.problem(), np.random.default_rng(3)
    known = list(dict.fromkeys(landscape.space.sample(rng) for _ in range(40)))
    ms = landscape.latency(np.array([subnet.genome for subnet in known]))
    assert (ms > problem.budget_ms).any()
    strategy = guided.Guided(problem)
    strategy.begin_after([Candidate(s, landscape.score(s), float(m)) for s, m in zip(known, ms, strict=True)])
    batch = strategy.ask().subnets
    assert len(batch) == guided.BATCH
    assert not set(batch) & set(known)
    assert (landscape.latency(np.array([subnet.genome for subnet in batch])) <= problem.budget_ms).all()
    within = [landscape.score(subnet) for subnet in Fresh(problem, rng).draw(200)]
    assert np.mean([landscape.score(subnet) for subnet in batch]) > np.quantile(within, 0.75)


def test_a_large_space_stays_within_its_pool() -> None:
    landscape = Landscape(SPACES["tree"], 0)
    strategy: Any = open_strategy("guided", landscape.problem(SearchRule(evaluations=1000)))
    for _ in range(8):
        batch = strategy.ask().subnets
        ms = landscape.latency(np.array([subnet.genome for subnet in batch]))
        strategy.tell([Candidate(s, landscape.score(s), float(m)) for s, m in zip(batch, ms, strict=True)])
        assert len(strategy.pool) <= guided.LARGEST_POOL + len(strategy.found) + CHILDREN + guided.NEW
        assert set(strategy.found) <= set(strategy.pool)


def test_it_finds_what_is_among_the_best_of_a_large_space() -> None:
    """In 60 evaluations what random search doesn't in four times as many, on average over a few landscapes."""
    gained = []
    for seed in range(4):
        landscape = Landscape(SPACES["mobile"], seed, blur=0.0)
        found = run(landscape, landscape.problem(SearchRule(evaluations=60, patience=1000)), "guided")
        chance = run(landscape, landscape.problem(SearchRule(evaluations=240, patience=1000)), "random")
        gained.append(max(c.score for c in found.evaluated) - max(c.score for c in chance.evaluated))
    assert np.mean(gained) > 0


def test_where_size_is_charged_it_asks_for_less_of_it() -> None:
    """The same start, and then in each batch what is as hopeful for less."""
    landscape = Landscape(SPACES["mobile"], 0, blur=0.0)
    sizes = []
    for charged in (False, True):
        begin, *following = asked(landscape.problem(charged_by_size=charged), landscape, 12)
        sizes.append((begin, features_of(landscape.space).log_size(landscape.space, sum(following, ()), "values")))
    (begin, free), (same, charged_for) = sizes
    assert begin == same
    assert np.exp(charged_for).sum() < 0.9 * np.exp(free).sum()
