"""Budgets besides latency: a search stays within them, and a finished file is judged by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.artifacts.verdict import broken, verdict
from edgenas.errors import InfeasibleBudget, InputError
from edgenas.network import costs
from edgenas.pipeline.energy import refuse_energy
from edgenas.pipeline.measuring import default_budget
from edgenas.search.budgets import Budget, LatencyLimit, Shares, WithinBudgets, closest_together
from edgenas.search.evaluations import Evaluations
from edgenas.search.explore import LatencyFunction, feasible
from edgenas.search.narrow import everything
from edgenas.search.run import search
from edgenas.search.strategy import Problem, SearchRule
from tests.tiny_space import SPACE

MACS = "the number of MACs"


def latency(genomes: np.ndarray) -> np.ndarray:
    """Anything that is the same for the same network: 1 ms and a bit for each gene."""
    return 1 + np.array([sum(SPACE.subnet(tuple(map(int, row))).genome) for row in genomes]) / 10


def macs_m(network: object) -> float:
    return costs.macs(network) / 1e6  # type: ignore[arg-type]


GENOMES = st.lists(st.tuples(*(st.integers(0, options - 1) for options in SPACE.radix())), min_size=1, max_size=8)


@settings(max_examples=40)
@given(genomes=GENOMES, limit=st.floats(0.01, 2), budget_ms=st.floats(0.5, 3))
def test_what_fits_keeps_its_latency_and_what_does_not_is_over_the_budget(
    genomes: list[tuple[int, ...]], limit: float, budget_ms: float
) -> None:
    rows = np.array(genomes)
    within = WithinBudgets(SPACE, latency, (Budget("--macs-m", MACS, "M", limit, macs_m),), budget_ms)
    values = np.array([macs_m(SPACE.network(SPACE.subnet(genome))) for genome in genomes])
    found = within(rows)
    assert np.array_equal(found[values <= limit], latency(rows)[values <= limit])
    assert (found[values > limit] > budget_ms).all()
    assert np.array_equal(found, within(rows)), "the same when asked again"
    order = np.argsort(values[values > limit])
    same_latency = WithinBudgets(SPACE, lambda g: np.full(len(g), 0.1), within.shares.budgets, budget_ms)(rows)[
        values > limit
    ]
    assert (np.diff(same_latency[order]) >= 0).all(), "the further over, the slower it seems"


def test_without_further_budgets_nothing_changes() -> None:
    rows = np.array([SPACE.sample(np.random.default_rng(i)).genome for i in range(20)])
    assert np.array_equal(WithinBudgets(SPACE, latency, (), 1.0)(rows), latency(rows))


def on_other(genomes: np.ndarray) -> np.ndarray:
    """The latency on another device: there it is the last gene that takes time."""
    return 2 + np.array([SPACE.subnet(tuple(map(int, row))).genome[-1] for row in genomes])


def limit_of(ms: float, latency_there: LatencyFunction = on_other) -> LatencyLimit:
    return LatencyLimit("--latency-ms other=", "the latency on other", ms, latency_there)


@settings(max_examples=40)
@given(genomes=GENOMES, macs_limit=st.floats(0.01, 2), other_ms=st.floats(1, 5), budget_ms=st.floats(0.5, 3))
def test_a_device_that_is_too_slow_counts_as_any_other_budget_that_is_broken(
    genomes: list[tuple[int, ...]], macs_limit: float, other_ms: float, budget_ms: float
) -> None:
    rows = np.array(genomes)
    budgets = (Budget("--macs-m", MACS, "M", macs_limit, macs_m),)
    within = WithinBudgets(SPACE, latency, budgets, budget_ms, (limit_of(other_ms),))
    macs = np.array([macs_m(SPACE.network(SPACE.subnet(genome))) for genome in genomes])
    fits = (macs <= macs_limit) & (on_other(rows) <= other_ms)
    found = within(rows)
    assert np.array_equal(found[fits], latency(rows)[fits])
    assert (found[~fits] > budget_ms).all()
    assert np.allclose(within.shares(rows), np.stack([macs / macs_limit, on_other(rows) / other_ms], axis=1))
    tightest = within.where_it_is_tightest(rows)
    assert np.array_equal(tightest > budget_ms, found > budget_ms), "the same subnets are within all budgets"
    shares = np.maximum(latency(rows) / budget_ms, on_other(rows) / other_ms)
    assert np.allclose(tightest[fits] / budget_ms, shares[fits])


@settings(max_examples=8)
@given(ours_ms=st.floats(0.9, 2), other_ms=st.floats(1.5, 4.5), seed=st.integers(0, 99))
def test_how_close_budgets_come_together(ours_ms: float, other_ms: float, seed: int) -> None:
    """On the other device, what is fast on this one is slow: nothing meets two tight budgets."""

    def reverse(genomes: np.ndarray) -> np.ndarray:
        return 5 - latency(genomes)

    shares = Shares(SPACE, (), (limit_of(ours_ms, latency), limit_of(other_ms, reverse)))
    found = closest_together(shares, np.random.default_rng(seed))
    if ours_ms + other_ms < 5:
        assert found is not None
        assert (found.shares[np.isfinite(found.shares)] > 1).all() or not found.others_met
    if found is None:
        assert ours_ms + other_ms >= 5
    elif found.others_met:
        least_ms = np.array([5 - other_ms, 5 - ours_ms])
        reached_ms = found.shares * [ours_ms, other_ms]
        known = np.isfinite(reached_ms)
        assert (reached_ms[known] >= least_ms[known] - 1e-9).all(), "no closer than it can be"
    else:
        assert (found.shares > 1).any()


def test_a_search_only_ever_evaluates_what_meets_all_budgets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = [macs_m(SPACE.network(SPACE.sample(rng))) for _ in range(300)]
    limit, budget_ms = float(np.quantile(values, 0.15)), 2.0
    within = WithinBudgets(SPACE, latency, (Budget("--macs-m", MACS, "M", limit, macs_m),), budget_ms)
    start = [subnet for subnet, _ in feasible(SPACE, within, budget_ms, 24, np.random.default_rng(0))]
    assert len(start) >= 8
    rule = SearchRule(population=12, evaluations=80)
    log = Evaluations(tmp_path / "log.jsonl", lambda subnet: sum(subnet.genome) / 100)
    found = search(Problem(SPACE, within, budget_ms, tuple(start), everything(SPACE), rule, 0), "evolution", log.scores)
    assert len(found.evaluated) > 24
    for candidate in found.evaluated:
        assert macs_m(SPACE.network(candidate.subnet)) <= limit
        assert candidate.latency_ms == pytest.approx(float(latency(np.array([candidate.subnet.genome]))[0]))


RECORD = {"size_bytes": 2**20, "activation_peak_mib": 0.5, "macs": 3_000_000, "params": 200_000, "measured": None}


@pytest.mark.parametrize(
    ("limits", "names"),
    [
        ({}, []),
        ({"size_mib": 1.0, "peak_memory_mib": 0.5, "macs_m": 3.0, "params_m": 0.2}, []),
        ({"size_mib": 0.9}, ["size_mib"]),
        ({"peak_memory_mib": 0.4, "macs_m": 4}, ["peak_memory_mib"]),
        ({"macs_m": 2.9, "params_m": 0.1}, ["macs_m", "params_m"]),
    ],
)
def test_the_verdict_looks_at_all_of_them(limits: dict[str, float], names: list[str]) -> None:
    assert broken(RECORD, limits) == names
    row = {"latency_ms": 1.0} | limits
    assert verdict(RECORD, row) == ("not_met" if names else "not_measured")
    fast, slow = RECORD | {"measured": {"p50_ms": 1.0}}, RECORD | {"measured": {"p50_ms": 1.1}}
    assert verdict(fast, row) == ("not_met" if names else "met")
    assert verdict(slow, row) == "not_met"


@pytest.mark.parametrize(
    ("energy_mj", "expected", "names"), [(0.4, "met", []), (0.6, "not_met", ["energy_mj"]), (None, "not_measured", [])]
)
def test_energy_is_judged_where_it_was_measured(energy_mj: float | None, expected: str, names: list[str]) -> None:
    record = RECORD | {"measured": {"p50_ms": 1.0, "energy_mj": energy_mj}}
    limits = {"latency_ms": 1.0, "energy_mj": 0.5}
    assert verdict(record, limits) == expected
    assert broken(record, limits) == names
    assert verdict(RECORD, limits) == "not_measured"


def test_energy_without_data_and_energy_out_of_reach_are_refused() -> None:
    with pytest.raises(InputError, match="device 'host' has no energy counter or power rail that can be read"):
        refuse_energy("host", 1.0, None)
    with pytest.raises(InfeasibleBudget, match="the most frugal one takes 2 mJ on host") as refused:
        refuse_energy("host", 1.0, 2.0)
    assert refused.value.hint == "Ask for at least --energy-mj 2.2."
    refuse_energy("host", 2.0, 2.0)


@given(smallest=st.floats(1e-3, 1e3), times=st.floats(1.0, 100.0))
def test_the_default_budget_leaves_something_to_choose_from(smallest: float, times: float) -> None:
    largest = smallest * times
    budget = default_budget(smallest, largest)
    assert smallest <= budget <= largest
    assert budget > 1.3 * smallest or budget >= (smallest + largest) / 2 * (1 - 1e-9)
    if times > 3:
        assert budget == largest / 2
