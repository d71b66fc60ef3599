"""The stages that train: the supernet, the search over it, and the winner's fine-tuning and pruning."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from edgenas.compress.distill import fine_tune
from edgenas.compress.prune import plan_pruning, prune
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.space_predictor import SpacePredictor
from edgenas.nets.evaluate import predict
from edgenas.nets.feed import evaluation_images
from edgenas.nets.module import Layers, NetworkModule
from edgenas.nets.training import Recipe, has_fast_bf16, load_checkpoint
from edgenas.network.channels import with_widths
from edgenas.pipeline.context import Build
from edgenas.pipeline.measuring import measure_untrained
from edgenas.pipeline.request import epochs_for
from edgenas.search.evaluations import Candidate, Evaluations
from edgenas.search.evolution import SearchResult, search
from edgenas.spaces.space import Subnet
from edgenas.store import Stage, key_of
from edgenas.supernet.evaluate import SubnetJudge, score
from edgenas.supernet.train import new_supernet, train_supernet

IMPORTANCE_LIMIT = 0.15  # of a channel group's squared norm that pruning may remove
LATENCY_SHARE_WORTH_PRUNING = 0.02  # measured; less is within what two builds of one network differ


@dataclass(frozen=True)
class Supernet:
    """Loaded when first asked for: a build whose later stages are all cached never needs it."""

    key: str
    load: Callable[[], SubnetJudge]


@dataclass(frozen=True)
class Winner:
    """The specialised network, in up to three states; `pruning` is result.json's entry."""

    subnet: Subnet
    supernet: NetworkModule
    fine_tuned: NetworkModule
    pruned: NetworkModule | None
    pruning: dict[str, Any]
    key: str

    @property
    def final(self) -> NetworkModule:
        return self.pruned or self.fine_tuned


def train(build: Build) -> Supernet:
    recipe = epochs_for(build.effort.supernet, len(build.dataset.train))
    inputs = _training_inputs(build, recipe)
    stage = build.store.stage("supernet", inputs)
    path = stage.path("supernet.safetensors")
    trained: list[Layers] = []
    with build.progress.stage("supernet", f"Training the supernet, {recipe.epochs} epochs", cached=stage.is_done):
        if not stage.is_done:
            losses: list[float] = []
            on_step = _reporter(build, recipe)
            trained.append(
                train_supernet(
                    build.space,
                    build.dataset,
                    recipe,
                    build.request.seed,
                    path,
                    on_epoch=lambda done, total, loss: losses.append(loss),
                    on_step=on_step,
                )
            )
            stage.finish({"losses": losses})

    def load() -> SubnetJudge:
        if not trained:
            trained.append(new_supernet(build.space, build.request.seed))
            load_checkpoint(path, trained[0])
        return SubnetJudge(build.space, trained[0], build.dataset)

    return Supernet(key_of(inputs), load)


def run_search(
    build: Build, supernet: Supernet, predictor: LatencyPredictor, budget_ms: float, round_number: int
) -> SearchResult:
    """The front under the budget. Accuracies are kept per supernet: another budget or round never evaluates a subnet twice."""
    fitted = asdict(predictor.affine)
    rule = build.effort.search
    stage = build.store.stage("search", [supernet.key, fitted, budget_ms, asdict(rule), build.request.seed])
    log = build.store.stage("accuracy", supernet.key).path("evaluations.jsonl")
    title = "Searching" if round_number == 1 else f"Searching again, round {round_number}"
    started = time.monotonic()
    limit_s = None if build.request.max_minutes is None else build.request.max_minutes * 60
    with build.progress.stage("search", title, cached=stage.is_done):
        if not stage.is_done:
            judge: list[SubnetJudge] = []

            def accuracy(subnet: Subnet) -> float:
                if not judge:
                    judge.append(supernet.load())
                return judge[0].score(subnet)

            found = search(
                build.space,
                SpacePredictor(build.space, predictor).latency_ms,
                Evaluations(log, accuracy),
                budget_ms,
                rule,
                out_of_time=lambda: limit_s is not None and time.monotonic() - started > limit_s,
                on_evaluation=lambda count, c: build.progress.update(
                    count, rule.evaluations, f"{c.score:.1%} at {c.latency_ms:.3g} ms"
                ),
            )
            stage.finish(_search_to_json(found))
    return _search_from_json(stage.outcome())


def specialise(
    build: Build, supernet: Supernet, subnet: Subnet, predictor: LatencyPredictor, profile_key: str
) -> Winner:
    """Inherited weights, fine-tuned with distillation from the largest subnet, and pruned where that saves measured time."""
    recipe = epochs_for(build.effort.fine_tune, len(build.dataset.train))
    inputs = [supernet.key, subnet.genome, asdict(recipe), build.request.seed]
    stage = build.store.stage("fine-tune", inputs)
    inherited = _saved(stage, "inherited", lambda: supernet.load().module(subnet), build, subnet)
    path = stage.path("fine-tuned.safetensors")
    fine_tuned = _copy(inherited)
    with build.progress.stage("fine-tune", f"Fine-tuning the winner, {recipe.epochs} epochs", cached=stage.is_done):
        if not stage.is_done:
            teacher = supernet.load().module(build.space.largest())
            fine_tune(fine_tuned, teacher, build.dataset, recipe, build.request.seed, path, _reporter(build, recipe))
            stage.finish({"score": _validation_score(build, fine_tuned)})
        load_checkpoint(path, fine_tuned)
    key = key_of(inputs)
    pruned, pruning = _pruned(build, supernet, fine_tuned, stage.outcome()["score"], predictor, [key, profile_key])
    return Winner(subnet, inherited, fine_tuned.eval(), pruned, pruning, key_of([key, profile_key, pruning["widths"]]))


def _pruned(
    build: Build,
    supernet: Supernet,
    module: NetworkModule,
    before_score: float,
    predictor: LatencyPredictor,
    inputs: list[str],
) -> tuple[NetworkModule | None, dict[str, Any]]:
    recipe = epochs_for(build.effort.after_pruning, len(build.dataset.train))
    drop = build.request.max_accuracy_drop
    stage = build.store.stage(
        "prune", [inputs, asdict(recipe), asdict(predictor.affine), IMPORTANCE_LIMIT, drop, build.request.seed]
    )
    path = stage.path("pruned.safetensors")
    with build.progress.stage("prune", "Pruning where the table says it saves time", cached=stage.is_done):
        if not stage.is_done:
            plan = plan_pruning(module, predictor.latency_ms, IMPORTANCE_LIMIT)
            outcome: dict[str, Any] = {
                "channels_before": plan.channels_before,
                "channels_after": plan.channels_after,
                "predicted_saved_ms": plan.before_ms - plan.after_ms,
                "saved_ms": None,
                "provenance": "measured",
                "widths": dict(plan.widths),
                "accepted": False,
                "note": "No step of the latency staircase below the winner's widths saves time worth its accuracy.",
            }
            if plan.channels_after < plan.channels_before:
                outcome |= _try_pruning(build, supernet, module, plan.widths, before_score, recipe, stage)
            stage.finish(outcome)
    outcome = stage.outcome()
    if not outcome["accepted"]:
        return None, outcome
    pruned = NetworkModule(with_widths(module.network, outcome["widths"]))
    load_checkpoint(path, pruned)
    return pruned.eval(), outcome


def _try_pruning(
    build: Build,
    supernet: Supernet,
    module: NetworkModule,
    widths: dict[str, int] | Any,
    before_score: float,
    recipe: Recipe,
    stage: Stage,
) -> dict[str, Any]:
    """Measured first, in one interleaved run: what saves no time isn't trained at all."""
    smaller = with_widths(module.network, widths)
    before, after = measure_untrained(build.machine, [module.network, smaller], "int8")
    saved = before.p50_ms - after.p50_ms
    found: dict[str, Any] = {"saved_ms": saved, "provenance": before.provenance}
    if saved < LATENCY_SHARE_WORTH_PRUNING * before.p50_ms:
        return found | {"note": "The predicted saving was not there when measured, so nothing was pruned."}
    teacher = supernet.load().module(build.space.largest())
    pruned = prune(module, widths)
    fine_tune(
        pruned,
        teacher,
        build.dataset,
        recipe,
        build.request.seed + 1,
        stage.path("pruned.safetensors"),
        _reporter(build, recipe),
    )
    after_score = _validation_score(build, pruned)
    lost = 100 * (before_score - after_score)
    found |= {"score_before": before_score, "score_after": after_score}
    if lost > build.request.max_accuracy_drop:
        return found | {"note": f"Pruning cost {lost:.2f} points of validation accuracy, so it was not kept."}
    return found | {"accepted": True, "note": f"Validation accuracy changed by {-lost:+.2f} points."}


def _training_inputs(build: Build, recipe: Recipe) -> list[Any]:
    bf16 = has_fast_bf16()
    return [build.space.id, build.dataset.fingerprint, asdict(recipe), build.request.seed, torch.__version__, bf16]


def _reporter(build: Build, recipe: Recipe) -> Callable[[float], None]:
    def on_step(epochs: float) -> None:
        build.progress.update(epochs, recipe.epochs, f"epoch {min(int(epochs) + 1, recipe.epochs)} of {recipe.epochs}")

    return on_step


def _validation_score(build: Build, module: NetworkModule) -> float:
    images = evaluation_images(build.dataset, build.dataset.validation, module.network.input_shape[2])
    return score(predict(module, images), build.dataset.validation, build.dataset)


def _saved(stage: Stage, name: str, make: Callable[[], NetworkModule], build: Build, subnet: Subnet) -> NetworkModule:
    """A module kept in the stage's folder, made when it isn't there yet."""
    from edgenas.nets.training import save_checkpoint

    path = stage.path(f"{name}.safetensors")
    if path.exists():
        module = NetworkModule(build.space.network(subnet))
        load_checkpoint(path, module)
        return module.eval()
    module = make()
    save_checkpoint(path, module, None, 0)
    return module


def _copy(module: NetworkModule) -> NetworkModule:
    twin = NetworkModule(module.network)
    twin.load_state_dict(module.state_dict())
    return twin


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
