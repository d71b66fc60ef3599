"""What builds offer strategies that train candidates on their own, and what such a search leaves to newcomers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgenas.pipeline.offers import NONE, trainings
from edgenas.pipeline.request import EFFORTS
from edgenas.pipeline.searching import room_for_newcomers

IMAGES = range(60_000)  # so many that no recipe's epochs are scaled up


def build(effort: str, strategy: str) -> Any:
    return SimpleNamespace(
        effort=EFFORTS[effort],
        request=SimpleNamespace(strategy=strategy, seed=0),
        dataset=SimpleNamespace(train=IMAGES),
    )


@pytest.mark.parametrize("effort", EFFORTS)
def test_the_first_is_half_as_long_as_the_finalists_first_and_starts_from_the_same_weights(effort: str) -> None:
    offered = trainings(build(effort, "halving"), None, None)  # type: ignore[arg-type]
    first = EFFORTS[effort].fine_tune[0]
    assert offered.entrants == (2 * first.finalists, first.finalists)
    assert [rung["recipe"]["epochs"] for rung in offered.key] == [first.recipe.epochs // 2, first.recipe.epochs]
    assert {rung["fresh"] for rung in offered.key} == {first.fresh}
    assert len(offered.scores) == 2


def test_other_strategies_ask_for_none() -> None:
    assert trainings(build("standard", "guided"), None, None) is NONE  # type: ignore[arg-type]


def test_a_search_by_trainings_has_no_need_of_newcomers() -> None:
    searched: Any = SimpleNamespace(is_trained=True)
    assert room_for_newcomers(build("standard", "halving"), None, searched) is None  # type: ignore[arg-type]
