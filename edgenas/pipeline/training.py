"""The stages from the space to a winner: the supernet, its focus on a budget, and the search."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from edgenas.errors import InfeasibleBudget
from edgenas.latency.fastest import FastestPredictor
from edgenas.nets.module import Layers
from edgenas.nets.training import Recipe, has_fast_bf16, load_checkpoint
from edgenas.pipeline.context import Build
from edgenas.pipeline.request import epochs_for
from edgenas.search.evaluations import Candidate, Evaluations
from edgenas.search.evolution import SearchResult, search
from edgenas.search.explore import LatencyFunction, explore, feasible, neighbourhood
from edgenas.search.narrow import Narrowing
from edgenas.spaces.space import Subnet
from edgenas.store import Stage, read_json, write_json
from edgenas.supernet.evaluate import SubnetJudge
from edgenas.supernet.train import new_supernet, train_supernet


@dataclass(frozen=True)
class Supernet:
    """Loaded when first asked for: a build whose later stages are all cached never needs it."""

    key: str
    load: Callable[[], SubnetJudge]


@dataclass(frozen=True)
class Focus:
    """The supernet trained further on the neighbourhood of what looked best under one budget, and where the search starts."""

    supernet: Supernet
    start: tuple[Subnet, ...]
    narrowing: Narrowing


def train(build: Build) -> Supernet:
    """The supernet of the whole space. It depends on no budget and no device: another one takes it from the cache."""
    recipe = epochs_for(build.effort.supernet, len(build.dataset.train))
    stage = build.store.stage("supernet", _training_inputs(build, recipe))
    fresh = partial(new_supernet, build.space, build.request.seed)
    return _trained(
        build, stage, "Training the supernet", recipe, fresh, build.space.sample, build.request.seed, sandwich=True
    )


def focus(build: Build, supernet: Supernet, predictor: FastestPredictor, budget_ms: float) -> Focus:
    """Evaluate random subnets within the budget, narrow the space, and train on around the best of them."""
    rule, seed = build.effort.search, build.request.seed
    recipe = epochs_for(build.effort.focus, len(build.dataset.train))
    inputs = [supernet.key, predictor.key(), budget_ms, asdict(rule), asdict(recipe), seed]
    stage = build.store.stage("explore", inputs)
    log = build.store.stage("accuracy", supernet.key).path("evaluations.jsonl")
    with build.progress.stage("explore", "Exploring the space under the budget", cached=stage.is_done):
        if not stage.is_done:
            latency = predictor.over(build.space)
            evaluations = Evaluations(log, _judged(supernet))
            explored = explore(
                build.space,
                latency,
                evaluations,
                budget_ms,
                rule.explored,
                seed,
                _candidate_reporter(build, rule.explored),
            )
            if explored is None:
                raise InfeasibleBudget(
                    f"no subnet of the space is predicted to meet {budget_ms:.3g} ms",
                    "The smallest one was measured within the budget, so it is very close: ask for a little more.",
                )
            near = neighbourhood(build.space, latency, explored, budget_ms, rule.neighbours, seed)
            stage.finish({"neighbours": [s.genome for s in near], "allowed": explored.narrowing.allowed})
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
        lambda: supernet.load().supernet,
        drawn,
        seed + 1,
        sandwich=False,
    )
    return Focus(focused, tuple(near[: rule.start]), narrowing)


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
) -> Supernet:
    path = stage.path("supernet.safetensors")
    judges: list[SubnetJudge] = []
    with build.progress.stage(stage.name, f"{title}, {recipe.epochs} epochs", cached=stage.is_done):
        if not stage.is_done:
            losses = read_json(stage.path("losses.json")) if stage.path("losses.json").exists() else []

            def on_epoch(done: int, total: int, loss: float) -> None:
                losses[done - 1 :] = [loss]
                write_json(stage.path("losses.json"), losses)

            trained = train_supernet(
                initial(),
                build.space,
                sample,
                build.dataset,
                recipe,
                seed,
                path,
                sandwich=sandwich,
                on_epoch=on_epoch,
                on_step=epoch_reporter(build, recipe),
            )
            judges.append(SubnetJudge(build.space, trained, build.dataset))
            stage.finish({"losses": losses})

    def load() -> SubnetJudge:
        if not judges:
            layers = new_supernet(build.space, build.request.seed)
            load_checkpoint(path, layers)
            judges.append(SubnetJudge(build.space, layers, build.dataset))
        return judges[0]

    return Supernet(stage.key, load)


def run_search(
    build: Build, focused: Focus, predictor: FastestPredictor, budget_ms: float, round_number: int
) -> SearchResult:
    """The front under the budget. Accuracies are kept per supernet: another round never evaluates a subnet twice."""
    rule, key = build.effort.search, focused.supernet.key
    limit = build.request.max_minutes
    stage = build.store.stage("search", [key, predictor.key(), budget_ms, asdict(rule), build.request.seed, limit])
    log = build.store.stage("accuracy", key).path("evaluations.jsonl")
    title = "Searching" if round_number == 1 else f"Searching again, round {round_number}"
    started = time.monotonic()
    with build.progress.stage("search", title, cached=stage.is_done):
        if not stage.is_done:
            latency = predictor.over(build.space)
            found = search(
                build.space,
                latency,
                Evaluations(log, _judged(focused.supernet)),
                budget_ms,
                _start(build, focused, latency, budget_ms),
                focused.narrowing,
                rule,
                build.request.seed,
                out_of_time=lambda: limit is not None and time.monotonic() - started > limit * 60,
                on_evaluation=_candidate_reporter(build, rule.evaluations),
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


def _judged(supernet: Supernet) -> Callable[[Subnet], float]:
    """A scoring function that loads the supernet only when a score is really needed."""
    return lambda subnet: supernet.load().score(subnet)


def _candidate_reporter(build: Build, total: int) -> Callable[[int, Candidate], None]:
    return lambda count, c: build.progress.update(count, total, f"{c.score:.1%} at {c.latency_ms:.3g} ms")


def _training_inputs(build: Build, recipe: Recipe) -> list[Any]:
    bf16 = has_fast_bf16()
    return [build.space.id, build.dataset.fingerprint, asdict(recipe), build.request.seed, torch.__version__, bf16]


def epoch_reporter(build: Build, recipe: Recipe) -> Callable[[float], None]:
    def on_step(epochs: float) -> None:
        build.progress.update(epochs, recipe.epochs, f"epoch {min(int(epochs) + 1, recipe.epochs)} of {recipe.epochs}")

    return on_step


def _search_to_json(found: SearchResult) -> dict[str, Any]:
    return {
        "evaluated": [
            {"space": c.subnet.space, "genome": c.subnet.genome, "score": c.score, "latency_ms": c.latency_ms}
            for c in found.evaluated
        ],
        "front": [c.subnet.id for c in found.front],
        "dropped_options": found.dropped_options,
        "stopped": found.stopped,
    }


def _search_from_json(data: dict[str, Any]) -> SearchResult:
    evaluated = tuple(
        Candidate(Subnet(c["space"], tuple(c["genome"])), c["score"], c["latency_ms"]) for c in data["evaluated"]
    )
    by_id = {c.subnet.id: c for c in evaluated}
    return SearchResult(evaluated, tuple(by_id[i] for i in data["front"]), data["dropped_options"], data["stopped"])
