"""The efforts of bench_headline: an effort of `edgenas build` with other numbers of epochs, finalists and newcomers."""

from __future__ import annotations

from dataclasses import replace

from edgenas.nets.recipe import Recipe
from edgenas.pipeline.request import Effort, Rung

NEWCOMERS_SHARE = 0.4  # of the last training's epochs


def with_epochs(effort: Effort, epochs: int | None, supernet_epochs: int | None) -> Effort:
    """The last training of winners takes `epochs`; all others change by the same factor."""
    if supernet_epochs is not None:
        effort = replace(
            effort,
            supernet=replace(effort.supernet, epochs=supernet_epochs),
            focus=replace(effort.focus, epochs=supernet_epochs),
        )
    if epochs is not None:
        *before, last = effort.fine_tune
        share = epochs / last.recipe.epochs

        def scaled(recipe: Recipe) -> Recipe:
            return replace(recipe, epochs=max(1, round(share * recipe.epochs)))

        rungs = (*(replace(r, recipe=scaled(r.recipe)) for r in before), replace(last, recipe=scaled(last.recipe)))
        after_pruning = scaled(effort.after_pruning)
        effort = replace(effort, fine_tune=rungs, after_pruning=after_pruning)
    return effort


def with_finalists(effort: Effort, finalists: int | None) -> Effort:
    """`finalists` go through the last training; rungs before it that would leave no fewer are dropped."""
    if finalists is None:
        return effort
    *before, last = effort.fine_tune
    rungs = (*(rung for rung in before if rung.finalists > finalists), replace(last, finalists=finalists))
    return replace(effort, fine_tune=rungs)


def with_newcomers(effort: Effort, newcomers: int | None) -> Effort:
    """The first rung is then trained from new weights, for two fifths of the epochs. After a quarter of them dense blocks still looked
    better than depthwise ones that overtook them later; after one epoch a plain network of 16 and 32 channels was 1.2 points behind a
    residual one of 32 and 64, and level with it after two."""
    if newcomers is None:
        return effort
    first, *others = effort.fine_tune
    last = effort.fine_tune[-1]
    short = replace(
        first, recipe=replace(last.recipe, epochs=max(1, round(NEWCOMERS_SHARE * last.recipe.epochs))), fresh=True
    )
    return replace(effort, newcomers=newcomers, fine_tune=(short, *(others or [last])))


def with_learning_rate(effort: Effort, rate: float | None) -> Effort:
    """Of the trainings from new weights, all but the one after pruning."""
    if rate is None:
        return effort

    def at_rate(rung: Rung) -> Rung:
        return replace(rung, recipe=replace(rung.recipe, learning_rate=rate)) if rung.fresh else rung

    return replace(effort, fine_tune=tuple(map(at_rate, effort.fine_tune)))


def baseline_recipe(effort: Effort) -> Recipe:
    last = effort.fine_tune[-1].recipe
    return replace(last, epochs=last.epochs + effort.after_pruning.epochs)
