"""The stages that make the winner a network of its own: fine-tuning with distillation, and pruning where it saves time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgenas.artifacts.kernel import Precision
from edgenas.compress.distill import fine_tune
from edgenas.compress.prune import plan_pruning, prune
from edgenas.latency.fastest import FastestPredictor
from edgenas.nets.evaluate import predict
from edgenas.nets.feed import evaluation_images
from edgenas.nets.module import NetworkModule
from edgenas.nets.training import Recipe, load_checkpoint, save_checkpoint
from edgenas.network.channels import with_widths
from edgenas.pipeline.context import Build
from edgenas.pipeline.measuring import measure_untrained
from edgenas.pipeline.request import epochs_for
from edgenas.pipeline.training import Supernet, epoch_reporter
from edgenas.spaces.space import Subnet
from edgenas.store import Stage, key_of
from edgenas.supernet.evaluate import score

PRUNING_SHARE_OF_DROP = 0.5  # quantization may need the rest
IMPORTANCE_LIMIT = 0.15  # of a channel group's squared norm that pruning may remove
LATENCY_SHARE_WORTH_PRUNING = 0.02  # measured; less is within what two builds of one network differ


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


def specialise(
    build: Build, supernet: Supernet, subnet: Subnet, predictor: FastestPredictor, profile_key: str
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
            fine_tune(
                fine_tuned, teacher, build.dataset, recipe, build.request.seed, path, epoch_reporter(build, recipe)
            )
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
    predictor: FastestPredictor,
    inputs: list[str],
) -> tuple[NetworkModule | None, dict[str, Any]]:
    recipe = epochs_for(build.effort.after_pruning, len(build.dataset.train))
    drop = build.request.max_accuracy_drop
    stage = build.store.stage(
        "prune", [inputs, asdict(recipe), predictor.key(), IMPORTANCE_LIMIT, drop, build.request.seed]
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
                "provenance": None,
                "widths": dict(plan.widths),
                "accepted": False,
                "note": "No step of the latency staircase below the winner's widths saves time worth its accuracy.",
            }
            if plan.channels_after < plan.channels_before:
                precision = predictor.precision(module.network)
                outcome |= _try_pruning(build, supernet, module, plan.widths, precision, before_score, recipe, stage)
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
    widths: Mapping[str, int],
    precision: Precision,
    before_score: float,
    recipe: Recipe,
    stage: Stage,
) -> dict[str, Any]:
    """Measured first, in one interleaved run: what saves no time isn't trained at all."""
    smaller = with_widths(module.network, widths)
    before, after = measure_untrained(build.machine, [module.network, smaller], precision)
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
        epoch_reporter(build, recipe),
    )
    after_score = _validation_score(build, pruned)
    lost = 100 * (before_score - after_score)
    found |= {"score_before": before_score, "score_after": after_score}
    if lost > build.request.max_accuracy_drop * PRUNING_SHARE_OF_DROP:
        return found | {"note": f"Pruning cost {lost:.2f} points of validation accuracy, so it was not kept."}
    return found | {"accepted": True, "note": f"Validation accuracy changed by {-lost:+.2f} points."}


def _validation_score(build: Build, module: NetworkModule) -> float:
    images = evaluation_images(build.dataset, build.dataset.validation, module.network.input_shape[2])
    return score(predict(module, images), build.dataset.validation, build.dataset)


def _saved(stage: Stage, name: str, make: Callable[[], NetworkModule], build: Build, subnet: Subnet) -> NetworkModule:
    """A module kept in the stage's folder, made when it isn't there yet."""
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
