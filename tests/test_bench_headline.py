"""How the benchmarks of searched against hand-designed networks judge: the front, what is read off it, and rank correlations."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.spaces.mobile import for_data


@pytest.fixture(scope="module")
def headline() -> ModuleType:
    return importlib.import_module("bench_headline")


@pytest.fixture(scope="module")
def judging() -> ModuleType:
    return importlib.import_module("front_judging")


@pytest.fixture(scope="module")
def rank() -> ModuleType:
    return importlib.import_module("bench_rank")


def baseline(ms: float, validation: float, test: float, seed: int = 0) -> dict[str, Any]:
    return {
        "kind": "baseline",
        "name": f"net {ms}",
        "seed": seed,
        "ms": ms,
        "precision": "int8",
        "validation": {"int8": validation},
        "test_accuracy": test,
    }


def winner(seed: int) -> dict[str, Any]:
    figures = {"budget_ms": 0.2, "ms": 0.1, "test_accuracy": 0.92, "verdict": "met"}
    return {"kind": "winner", "name": "edgenas", "seed": seed} | figures


def test_left_out_is_what_is_far_under_something_no_slower(headline: ModuleType) -> None:
    accuracy = {"small": 0.80, "slow and bad": 0.81, "slow": 0.90, "close": 0.855, "large": 0.91}
    screening = headline.Screening({name: {"0.1": found, "0.2": 0.0} for name, found in accuracy.items()}, 0)
    ms = {"small": 0.1, "close": 0.2, "slow": 0.2, "slow and bad": 0.3, "large": 0.4, "never screened": 0.1}
    assert screening.far_under(ms) == {"slow and bad": "81.0 % after a quarter of the epochs, 90.0 % is as fast"}


def test_the_front_is_chosen_on_validation_images(judging: ModuleType) -> None:
    """The one that is the best on the test part is not chosen for that."""
    rows = [baseline(0.1, 0.90, 0.89), baseline(0.2, 0.89, 0.95), baseline(0.3, 0.92, 0.91)]
    assert judging.front_of(rows) == [(0.1, 0.89), (0.3, 0.91)]


def test_what_is_better_than_all_is_compared_with_the_best_and_not_with_the_slowest(judging: ModuleType) -> None:
    """A slower one may be worse on the test part: validation images put it on the front."""
    assert judging.latency_at([(1.0, 0.80), (2.0, 0.79)], 0.801)[0] == 1.0


def test_a_baseline_counts_in_both_precisions(judging: ModuleType) -> None:
    """The faster one may have lost what the winner has."""
    fast, exact = baseline(0.999, 0.85, 0.85), baseline(1.0, 0.90, 0.90)
    exact |= {"name": fast["name"], "precision": "fp32", "validation": {"fp32": 0.90}}
    own = winner(0) | {"budget_ms": 1.0, "ms": 0.99, "test_accuracy": 0.90}
    found = judging.compared([fast, exact, baseline(2.0, 0.91, 0.91), own], 1.0)
    assert found["ratio"] == found["ratio_of_means"] == pytest.approx(0.99)


def test_between_two_of_the_front_latency_is_a_straight_line(judging: ModuleType) -> None:
    assert judging.latency_at([(0.1, 0.88), (0.3, 0.92)], 0.90) == (pytest.approx(0.2), "")
    assert judging.latency_at([(0.1, 0.88), (0.3, 0.92)], 0.88) == (0.1, "")


def test_beyond_the_front_nothing_is_extrapolated(judging: ModuleType) -> None:
    front = [(0.1, 0.88), (0.3, 0.92)]
    above, below = judging.latency_at(front, 0.95), judging.latency_at(front, 0.80)
    assert above[0] == 0.3
    assert "more accurate" in above[1]
    assert below[0] == 0.1
    assert "less accurate" in below[1]


def test_what_an_interrupted_training_cost_is_not_known(rank: ModuleType, tmp_path: Path) -> None:
    rank.timed(tmp_path, "supernet", lambda: "trained")
    (tmp_path / "stages" / "focus-0123").mkdir(parents=True)
    assert rank.timed(tmp_path, "focus", lambda: "trained") == "trained"
    found = rank.training_seconds(tmp_path)
    assert found["supernet_cpu"] >= 0 and found["supernet_wall"] >= 0
    assert found["focus_cpu"] is None and found["focus_wall"] is None


def test_a_family_takes_the_rate_that_is_better_on_average(headline: ModuleType, tmp_path: Path) -> None:
    found = headline.Screening.read(tmp_path, 3)
    assert found == headline.Screening({}, 3)
    for name, low, high in [("plain 0 24px", 0.5, 0.6), ("plain 1 24px", 0.8, 0.75), ("ds-cnn 0 24px", 0.6, 0.5)]:
        found = found.with_result(name, {0.1: low, 0.2: high})
    assert found.rates() == {"plain": 0.2, "ds-cnn": 0.1}
    assert found.accuracy() == {"plain 0 24px": 0.6, "plain 1 24px": 0.75, "ds-cnn 0 24px": 0.6}
    found.write(tmp_path)
    assert headline.Screening.read(tmp_path, 9) == found


@given(points=st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.5, 1)), min_size=1, max_size=8), at=st.floats(0.5, 1))
def test_what_is_read_off_lies_within_the_front(points: list[tuple[float, float]], at: float) -> None:
    module = importlib.import_module("front_judging")
    rows = [baseline(ms, accuracy, accuracy) for ms, accuracy in points]
    front = module.front_of(rows)
    ms, _ = module.latency_at(front, at)
    assert front[0][0] <= ms <= front[-1][0]


def test_winners_are_compared_within_their_seed(judging: ModuleType) -> None:
    rows = [baseline(0.1, 0.90, 0.90), baseline(0.3, 0.94, 0.94), baseline(0.2, 0.90, 0.90, seed=1)]
    winners = [winner(seed) for seed in (0, 1)]
    found = judging.compared([*rows, *winners], 0.2)
    assert [each["ratio"] for each in found["seeds"]] == [pytest.approx(0.5), pytest.approx(0.5)]
    assert "note" not in found["seeds"][0]
    assert "more accurate than every baseline" in found["seeds"][1]["note"]


def test_means_are_compared_over_the_same_seeds(judging: ModuleType) -> None:
    """Noise takes the faster one in one seed up and in the other down; what is trained with one seed alone doesn't count."""
    rows = [
        baseline(0.1, 0.93, 0.93),
        baseline(0.1, 0.87, 0.87, seed=1),
        baseline(0.3, 0.94, 0.94),
        baseline(0.3, 0.94, 0.94, seed=1),
        baseline(0.05, 0.99, 0.99),
    ]
    winners = [winner(seed) for seed in (0, 1)]
    found = judging.compared([*rows, *winners], 0.2)
    assert found["ratio_of_means"] == pytest.approx(0.5)
    assert "note_of_means" not in found


def test_rungs_that_would_leave_no_fewer_are_dropped(headline: ModuleType) -> None:
    quick = headline.EFFORTS["quick"]
    assert headline.with_finalists(quick, None) == quick
    most = headline.EFFORTS["max"]
    assert [rung.finalists for rung in most.fine_tune] == [16, 6, 2]
    assert [rung.finalists for rung in headline.with_finalists(most, 3).fine_tune] == [16, 6, 3]
    assert [rung.finalists for rung in headline.with_finalists(most, 6).fine_tune] == [16, 6]
    assert headline.with_finalists(most, 6).fine_tune[-1].recipe == most.fine_tune[-1].recipe


def test_other_seeds_wait_for_the_screening(
    headline: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = headline.Headline(tmp_path, None, None, (0.1,), headline.EFFORTS["quick"], "quick", 3, float("inf"))
    names = ["plain 0 24px", "plain 1 24px"]

    def another_process_goes_on(seconds: float) -> None:
        found = one.screening()
        for name in names[len(found.tried) :][:1]:
            found.with_result(name, {0.1: 0.5, 0.2: 0.6}).write(tmp_path)

    monkeypatch.setattr(headline.time, "sleep", another_process_goes_on)
    one.wait_for_screening(names)
    assert one.screening().tried.keys() == set(names)
    assert capsys.readouterr().err == "waiting for the screening, which is done with --seed 3\n"
    late = headline.replace(one, until=0.0)
    with pytest.raises(headline.OutOfTime):
        late.wait_for_screening([*names, "plain 2 24px"])


def test_a_folder_with_other_settings_is_refused(headline: ModuleType, tmp_path: Path) -> None:
    quick = headline.EFFORTS["quick"]
    for budgets in ((0.1,), (0.1, 0.2)):
        headline.Headline(tmp_path, None, None, budgets, quick, "quick", 0, 0.0)
    with pytest.raises(click.UsageError, match="other settings"):
        headline.Headline(tmp_path, None, None, (0.1,), headline.with_finalists(quick, 2), "quick", 0, 0.0)
    with pytest.raises(click.UsageError, match="other settings"):
        headline.Headline(tmp_path, None, None, (0.1,), quick, "quick", 1, 0.0)


def test_an_effort_whose_only_rung_is_the_last_gets_a_short_one_before_it(headline: ModuleType) -> None:
    quick = headline.EFFORTS["quick"]
    only = headline.replace(quick, fine_tune=quick.fine_tune[-1:])
    first, last = headline.with_newcomers(only, 20).fine_tune
    assert (first.recipe.epochs, first.fresh, last) == (6, True, quick.fine_tune[-1])


def test_newcomers_are_first_trained_from_new_weights_for_two_fifths_as_long(headline: ModuleType) -> None:
    quick = headline.EFFORTS["quick"]
    assert headline.with_newcomers(quick, None) == quick
    first, *others = headline.with_newcomers(quick, 20).fine_tune
    last = quick.fine_tune[-1].recipe
    assert (first.finalists, first.fresh, others) == (8, True, list(quick.fine_tune[1:]))
    assert first.recipe == headline.replace(last, epochs=round(0.4 * last.epochs))
    assert headline.baseline_recipe(quick).epochs == last.epochs + quick.after_pruning.epochs


def test_a_learning_rate_is_that_of_trainings_from_new_weights(headline: ModuleType) -> None:
    quick = headline.EFFORTS["quick"]
    assert headline.with_learning_rate(quick, None) == quick
    short, second, last = headline.with_learning_rate(headline.with_newcomers(quick, 20), 0.2).fine_tune
    assert (short.recipe.learning_rate, last.recipe.learning_rate) == (0.2, 0.2)
    assert second == quick.fine_tune[1], "it goes on from trained weights"


def test_the_promise_is_of_the_focused_accuracy_and_macs(rank: ModuleType) -> None:
    space = for_data(28, 1, 10)
    subnets = [space.smallest()[0], space.sample(np.random.default_rng(0)), space.largest()]
    rows = [{"genome": list(s.genome), "supernet": 0.9, "focused": 0.5, "predicted_ms": 1.0} for s in subnets]
    low, middle, high = (row["promise"] for row in rank.with_promise(space, rows))
    assert low < middle < high  # alike in accuracy
    rows[0]["focused"] = 0.9
    assert rank.with_promise(space, rows)[0]["promise"] > low


def test_a_perfect_ranking_is_one_and_chance_is_near_none(rank: ModuleType) -> None:
    rng = np.random.default_rng(0)
    truth = np.sort(rng.random(30))
    rows = [
        {"alone": [t, t], "supernet": t / 2, "focused": float(chance), "promise": t, "predicted_ms": -t}
        for t, chance in zip(truth, rng.random(30), strict=True)
    ]
    found = rank.taus(rows, None)
    assert found["supernet"]["tau"] == found["ceiling"]["tau"] == 1
    assert (found["promise"]["tau"], found["latency"]["tau"]) == (1, -1)
    assert found["focused"]["low"] < 0 < found["focused"]["high"]
