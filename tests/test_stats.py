"""Rank correlations and their intervals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from edgenas.stats import mean_difference, rank_figures, resampled_kendall_tau, resampled_spearman

PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=12)


@given(PAIRS, st.integers(0, 99))
def test_every_sample_has_the_coefficient_that_scipy_gives_it(pairs: list[tuple[int, int]], seed: int) -> None:
    """Ties, and samples that are all the same on one side, among them."""
    x, y = np.array(pairs, float).T
    x[x == -3] = -np.inf  # what a proxy sees nothing in
    rows = np.random.default_rng(seed).integers(len(x), size=(8, len(x)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [[f(x[row], y[row]).statistic for row in rows] for f in (spearmanr, kendalltau)]
    assert resampled_spearman(x, y, rows) == pytest.approx(expected[0], nan_ok=True)
    assert resampled_kendall_tau(x, y, rows) == pytest.approx(expected[1], nan_ok=True)


def test_the_interval_holds_the_true_value_as_often_as_it_says() -> None:
    """Of pairs with a normal correlation of 0.6, whose Spearman coefficient is 6 / pi * asin(0.3) and Kendall's 2 / pi * asin(0.6)."""
    rng, inside = np.random.default_rng(0), np.zeros(2)
    for trial in range(100):
        x = rng.standard_normal(80)
        figures = rank_figures(x, 0.6 * x + 0.8 * rng.standard_normal(80), seed=trial)
        truth = {"spearman": 6 / np.pi * np.arcsin(0.3), "kendall_tau": 2 / np.pi * np.arcsin(0.6)}
        inside += [figures[f"{name}_low"] <= value <= figures[f"{name}_high"] for name, value in truth.items()]  # type: ignore[operator]
    assert (inside >= 88).all(), inside


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [5, 5, 5])])
def test_what_is_not_defined_is_none(x: list[float], y: list[float]) -> None:
    figures = rank_figures(x, y)
    assert figures.pop("n") == len(x)
    assert set(figures.values()) == {None}
    assert len(figures) == 6


def test_the_same_order_is_one_and_the_opposite_minus_one() -> None:
    x = np.exp(np.arange(20.0))
    for sign in (1, -1):
        figures = rank_figures(x, sign * np.arange(20.0))
        assert {round(value, 9) for name, value in figures.items() if name != "n" and value is not None} == {sign}


def test_a_difference_of_means_has_the_interval_of_its_standard_error() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(1, 2, 400), rng.normal(0, 1, 200)
    difference, low, high = mean_difference(one, other)
    assert difference == pytest.approx(one.mean() - other.mean())
    half = 1.96 * np.sqrt(one.var() / len(one) + other.var() / len(other))
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert low < difference < high
