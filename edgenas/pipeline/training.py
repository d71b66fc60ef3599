"""The stages from the space to a winner: the supernet, its focus on a budget, and the search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgenas.latency.fastest import FastestPredictor
from edgenas.nets.module import FULL_GAIN_INPUTS, Layers, NetworkModule
from edgenas.nets.recipe import Recipe
from edgenas.nets.training import has_fast_bf16, load_checkpoint
from edgenas.pipeline import budgets
from edgenas.pipeline.context import Build
from edgenas.pipeline.front_watch import FrontWatch
from edgenas.pipeline.offers import NONE, Trainings, relaxation
from edgenas.pipeline.request import epochs_for
from edgenas.pipeline.warm_start import drawn_warm
from edgenas.search.budgets import LatencyLimit
from edgenas.search.evaluations import Candidate, Evaluations, ScoreMany
from edgenas.search.explore import LatencyFunction, explore, feasible, neighbourhood
from edgenas.search.narrow import Narrowing
from edgenas.search.run import SearchResult, search
from edgenas.search.strategies import DEFAULT
from edgenas.search.strategy import Problem
from edgenas.spaces.space import Subnet
from edgenas.store import Stage, key_of, read_json, write_json
from edgenas.supernet.evaluate import SubnetJudge, likelihood_of, score_of
from edgenas.supernet.train import new_supernet, train_supernet


@dataclass(frozen=True)
class Supernet:
    """Loaded when first asked for: a build whose later stages are all cached never needs it."""

    key: str
    load: Callable[[], SubnetJudge]


@dataclass(frozen=True)
class Warm:
    """The proxy of a warm start, and the ids of the explored that it chose."""

    proxy: str
    ranked: frozenset[str]


@dataclass(frozen=True)
class Focus:
    """The supernet trained further on the neighbourhood of what looked best under one budget, and where the search starts. `explored`
    was judged by its weights before that; `warm`: how some of it was chosen, if not all at random."""

    supernet: Supernet
    start: tuple[Subnet, ...]
    narrowing: Narrowing
    explored: tuple[Candidate, ...]
    warm: Warm | None = None


def teacher(build: Build, supernet: Supernet) -> NetworkModule:
    """What networks of their own are distilled from: the user's own model where there is one, else the largest subnet."""
    return build.given.trained if build.given else supernet.load().module(build.space.largest())


def train(build: Build) -> Supernet:
    """The supernet of the whole space. It depends on no budget and no device: another one takes it from the cache."""
    recipe = epochs_for(build.effort.supernet, len(build.dataset.train))
    stage = build.store.stage("supernet", _training_inputs(build, recipe))
    return _trained(
        build,
        stage,
        "Training the supernet",
        recipe,
        partial(_untrained, build),
        build.space.sample,
        build.request.seed,
        sandwich=True,
        shrinking=build.effort.shrinking,
    )


def focus(
    build: Build,
    supernet: Supernet,
    predictor: FastestPredictor,
    budget_ms: float,
    elsewhere: Sequence[LatencyLimit] = (),
) -> Focus:
    """Evaluate random subnets within the budget, narrow the space, and train on around the best of them. `elsewhere` are the budgets of
    other devices."""
    rule, seed = build.effort.search, build.request.seed
    recipe = epochs_for(build.effort.focus, len(build.dataset.train))
    limits = budgets.key(build, elsewhere)
    proxy = build.request.warm_start
    inputs = [supernet.key, predictor.key(), budget_ms, limits, asdict(rule), asdict(recipe), seed]
    inputs += [] if proxy is None else [proxy]
    stage = build.store.stage("explore", inputs)
    latency = budgets.latency_within(build, predictor, budget_ms, elsewhere)
    warm = None if proxy is None or stage.is_done else drawn_warm(build, latency, budget_ms, proxy)
    with build.progress.stage("explore", "Exploring the space under the budget", cached=stage.is_done):
        if not stage.is_done:
            evaluations = _evaluations(build, supernet)
            explored = explore(
                build.space,
                latency,
                evaluations,
                budget_ms,
                rule.explored,
                seed,
                FrontWatch(build.progress, build.space, budget_ms, rule.explored),
                drawn=None if warm is None else (*warm.random, *warm.ranked),
            )
            if explored is None:
                raise budgets.nothing_found(build, budget_ms)
            near = neighbourhood(build.space, latency.where_it_is_tightest, explored, budget_ms, rule.neighbours, seed)
            stage.finish(
                {
                    "neighbours": [s.genome for s in near],
                    "allowed": explored.narrowing.allowed,
                    "evaluated": [_candidate_to_json(c) for c in explored.candidates],
                    "ranked": [] if warm is None else [subnet.id for subnet, _ in warm.ranked],
                }
            )
    outcome = stage.outcome()
    near = [build.space.subnet(tuple(genome)) for genome in outcome["neighbours"]]
    narrowing = Narrowing(tuple(tuple(options) for options in outcome["allowed"]))

    def drawn(rng: np.random.Generator) -> Subnet:
        return near[rng.integers(len(near))]

    focus_stage = build.store.stage("focus", inputs)
    focused = _trained(
        build,
        focus_stage,
        "Training on around the best",
        recipe,
        lambda: deepcopy(supernet.load().supernet),  # which stays as it is
        drawn,
        seed + 1,
        sandwich=False,
    )
    evaluated = tuple(map(_candidate_from_json, outcome["evaluated"]))
    chosen = None if proxy is None else Warm(proxy, frozenset(outcome["ranked"]))
    return Focus(focused, tuple(near[: rule.start]), narrowing, evaluated, chosen)


def _trained(
    build: Build,
    stage: Stage,
    title: str,
    recipe: Recipe,
    initial: Callable[[], Layers],
    sample: Callable[[np.random.Generator], Subnet],
    seed: int,
    *,
    sandwich: bool,
    shrinking: bool = False,
) -> Supernet:
    path = stage.path("supernet.safetensors")
    judges: list[SubnetJudge] = []
    with build.progress.stage(stage.name, f"{title}, {recipe.epochs} epochs", cached=stage.is_done):
        if not stage.is_done:
            losses = read_json(stage.path("losses.json")) if stage.path("losses.json").exists() else []

            def on_epoch(done: int, total: int, loss: float) -> None:
                losses[done - 1 :] = [loss]
                write_json(stage.path("losses.json"), losses)

            with build.teams.for_training() as team:
                trained = train_supernet(
                    initial(),
                    build.space,
                    sample,
                    build.dataset,
                    recipe,
                    seed,
                    path,
                    sandwich=sandwich,
                    shrinking=shrinking,
                    on_epoch=on_epoch,
                    on_step=epoch_reporter(build, recipe),
                    team=team,
                )
            judges.append(SubnetJudge(build.space, trained, build.dataset))
            stage.finish({"losses": losses})

    def load() -> SubnetJudge:
        if not judges:
            layers = _untrained(build)
            load_checkpoint(path, layers)
            judges.append(SubnetJudge(build.space, layers, build.dataset))
        return judges[0]

    return Supernet(stage.key, load)


def _untrained(build: Build) -> Layers:
    return build.given.supernet() if build.given else new_supernet(build.space, build.request.seed)


def run_search(
    build: Build,
    focused: Focus,
    predictor: FastestPredictor,
    budget_ms: float,
    round_number: int,
    elsewhere: Sequence[LatencyLimit] = (),
    trainings: Trainings = NONE,
) -> SearchResult:
    """The front under the budget. Accuracies are kept per supernet: another round never evaluates a subnet twice."""
    rule, key, strategy = build.effort.search, focused.supernet.key, build.request.strategy
    limit = build.request.max_minutes
    limits = budgets.key(build, elsewhere)
    inputs = [key, predictor.key(), budget_ms, limits, asdict(rule), build.request.seed, limit, strategy, trainings.key]
    stage = build.store.stage("search", inputs)
    title = "Searching" if round_number == 1 else f"Searching again, round {round_number}"
    if strategy != DEFAULT:
        title += f" ({strategy})"
    started = time.monotonic()
    with build.progress.stage("search", title, cached=stage.is_done):
        if not stage.is_done:
            latency = budgets.latency_within(build, predictor, budget_ms, elsewhere)
            found = search(
                Problem(
                    build.space,
                    latency,
                    budget_ms,
                    tuple(_start(build, focused, latency, budget_ms)),
                    focused.narrowing,
                    rule,
                    build.request.seed,
                    charged_by_size=True,
                    rungs=trainings.entrants,
                    relaxation=relaxation(build, focused.supernet, stage.folder),
                ),
                strategy,
                _evaluations(build, focused.supernet).scores,
                trainings.scores,
                out_of_time=lambda: limit is not None and time.monotonic() - started > limit * 60,
                on_evaluation=FrontWatch(build.progress, build.space, budget_ms, rule.evaluations),
            )
            stage.finish(_search_to_json(found))
    return _search_from_json(stage.outcome())


def _start(build: Build, focused: Focus, latency: LatencyFunction, budget_ms: float) -> list[Subnet]:
    """Where the search starts: the neighbourhood, as far as it is within the budget. After the predictor was corrected that may be
    none of it; then random subnets that are."""
    count = build.effort.search.start
    ms = latency(np.array([subnet.genome for subnet in focused.start]))
    start = [subnet for subnet, predicted in zip(focused.start, ms, strict=True) if predicted <= budget_ms]
    if len(start) < count:
        rng = np.random.default_rng(build.request.seed)
        start += [subnet for subnet, _ in feasible(build.space, latency, budget_ms, count - len(start), rng)]
    return start


def score(build: Build, supernet: Supernet, subnet: Subnet) -> float:
    """As a search scores it; evaluated once."""
    return _evaluations(build, supernet).score(subnet)


def _evaluations(build: Build, supernet: Supernet) -> Evaluations:
    many = _judged(build, supernet)
    return Evaluations(_log(build, supernet), lambda subnet: next(iter(many([subnet]))), many=many)


def _judged(build: Build, supernet: Supernet) -> ScoreMany:
    """Scores, found out wherever the build's tasks run. The supernet is only loaded when one is really needed."""
    judged = likelihood_of if build.request.objective == "loss" else score_of
    return lambda subnets: build.executor.map(judged, subnets, supernet.load())


def _log(build: Build, supernet: Supernet) -> Path:
    """Of one objective and one supernet."""
    name = "likelihood" if build.request.objective == "loss" else "accuracy"
    return build.store.stage(name, supernet.key).path("evaluations.jsonl")


def _training_inputs(build: Build, recipe: Recipe) -> list[Any]:
    bf16 = has_fast_bf16()
    together = [build.teams.size] if build.teams.size > 1 else []
    given = [build.given.key] if build.given else []
    shrinking = ["shrinking"] if build.effort.shrinking else []
    unbalanced = ["priors"] if build.dataset.unbalanced else []  # of the classes, in the loss
    return [
        *given,
        build.space.id,
        key_of(
            sorted(build.space.layer_shapes().items())
        ),  # the same space may come to share its weights in another way
        build.dataset.fingerprint,
        asdict(recipe),
        build.request.seed,
        torch.__version__,
        bf16,
        FULL_GAIN_INPUTS,  # with another one the same weights mean other logits
        *together,
        *shrinking,
        *unbalanced,
    ]


def epoch_reporter(build: Build, recipe: Recipe) -> Callable[[float], None]:
    def on_step(epochs: float) -> None:
        build.progress.update(epochs, recipe.epochs, f"epoch {min(int(epochs) + 1, recipe.epochs)} of {recipe.epochs}")

    return on_step


def _search_to_json(found: SearchResult) -> dict[str, Any]:
    return {
        "evaluated": [_candidate_to_json(c) for c in found.evaluated],
        "front": [c.subnet.id for c in found.front],
        "dropped_options": found.dropped_options,
        "stopped": found.stopped,
        "strategy": found.strategy,
    }


def _search_from_json(data: dict[str, Any]) -> SearchResult:
    evaluated = tuple(map(_candidate_from_json, data["evaluated"]))
    by_id = {c.subnet.id: c for c in evaluated}
    front = tuple(by_id[i] for i in data["front"])
    return SearchResult(evaluated, front, data["dropped_options"], data["stopped"], data["strategy"])


def _candidate_to_json(c: Candidate) -> dict[str, Any]:
    return {
        "space": c.subnet.space,
        "genome": c.subnet.genome,
        "score": c.score,
        "latency_ms": c.latency_ms,
        "rung": c.rung,
    }


def _candidate_from_json(data: dict[str, Any]) -> Candidate:
    return Candidate(Subnet(data["space"], tuple(data["genome"])), data["score"], data["latency_ms"], data["rung"])
