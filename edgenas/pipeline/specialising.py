"""The stages that make the winner a network of its own: fine-tuning with distillation, and pruning where it saves time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgenas.artifacts.kernel import Precision
from edgenas.compress.distill import fine_tune
from edgenas.compress.prune import plan_pruning, prune
from edgenas.compress.teacher import Teacher
from edgenas.latency.fastest import FastestPredictor
from edgenas.nets.evaluate import predict
from edgenas.nets.feed import evaluation_images
from edgenas.nets.module import NetworkModule
from edgenas.nets.recipe import Recipe
from edgenas.nets.training import load_checkpoint
from edgenas.network.channels import with_widths
from edgenas.pipeline.context import Build
from edgenas.pipeline.finalists import train_finalists
from edgenas.pipeline.measuring import measure_untrained
from edgenas.pipeline.request import epochs_for
from edgenas.pipeline.training import Supernet, epoch_reporter, teacher
from edgenas.search.refine import Room
from edgenas.spaces.space import Subnet
from edgenas.store import Stage, key_of
from edgenas.supernet.evaluate import score

PRUNING_SHARE_OF_DROP = 0.5  # quantization may need the rest
IMPORTANCE_LIMIT = 0.15  # of a channel group's squared norm that pruning may remove
LATENCY_SHARE_WORTH_PRUNING = 0.02  # measured; less is within what two builds of one network differ

NOT_PRUNED: dict[str, Any] = {
    "channels_before": None,
    "channels_after": None,
    "predicted_saved_ms": None,
    "saved_ms": None,
    "provenance": None,
    "widths": {},
    "accepted": False,
    "note": "Not tried: whether fewer channels save time has to be measured, and there is no target.",
}


@dataclass(frozen=True)
class Winner:
    """The specialised network, in up to three states; `pruning` and `finalists` are result.json's entries."""

    subnet: Subnet
    supernet: NetworkModule
    fine_tuned: NetworkModule
    pruned: NetworkModule | None
    pruning: dict[str, Any]
    finalists: tuple[dict[str, Any], ...]
    key: str

    @property
    def final(self) -> NetworkModule:
        return self.pruned or self.fine_tuned


def specialise(
    build: Build,
    supernet: Supernet,
    subnets: Sequence[Subnet],
    predictor: FastestPredictor,
    profile_key: str,
    room: Room | None = None,
) -> Winner:
    """`subnets` and, where there is room, newcomers are trained with distillation from the largest subnet until one is left, and that
    is pruned where it saves measured time."""
    best = train_finalists(build, supernet, subnets, predictor, room)
    pruned, pruning = _pruned(build, supernet, best.trained, predictor, [best.key, profile_key])
    key = key_of([best.key, profile_key, pruning["widths"]])
    return Winner(best.subnet, best.inherited, best.trained, pruned, pruning, best.standings, key)


def _pruned(
    build: Build,
    supernet: Supernet,
    module: NetworkModule,
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
            plan = plan_pruning(module, predictor.latency_ms, IMPORTANCE_LIMIT) if build.machine.reached else None
            outcome: dict[str, Any] = (
                NOT_PRUNED
                if plan is None
                else {
                    "channels_before": plan.channels_before,
                    "channels_after": plan.channels_after,
                    "predicted_saved_ms": plan.before_ms - plan.after_ms,
                    "saved_ms": None,
                    "provenance": None,
                    "widths": dict(plan.widths),
                    "accepted": False,
                    "note": "No step of the latency staircase below the winner's widths saves time worth its accuracy.",
                }
            )
            if plan is not None and plan.channels_after < plan.channels_before:
                precision = predictor.precision(module.network)
                outcome |= _try_pruning(build, supernet, module, plan.widths, precision, recipe, stage)
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
    recipe: Recipe,
    stage: Stage,
) -> dict[str, Any]:
    """Measured first, in one interleaved run: what saves no time isn't trained at all."""
    smaller = with_widths(module.network, widths)
    before, after = measure_untrained(build.machine, [(module.network, precision), (smaller, precision)])
    saved = before.p50_ms - after.p50_ms
    found: dict[str, Any] = {"saved_ms": saved, "provenance": before.provenance}
    if saved < LATENCY_SHARE_WORTH_PRUNING * before.p50_ms:
        return found | {"note": "The predicted saving was not there when measured, so nothing was pruned."}
    pruned = prune(module, widths)
    fine_tune(
        pruned,
        Teacher(teacher(build, supernet)),
        build.dataset,
        recipe,
        build.request.seed + 1,
        stage.path("pruned.safetensors"),
        epoch_reporter(build, recipe),
    )
    before_score, after_score = (_validation_score(build, each) for each in (module, pruned))
    lost = 100 * (before_score - after_score)
    found |= {"score_before": before_score, "score_after": after_score}
    if lost > build.request.max_accuracy_drop * PRUNING_SHARE_OF_DROP:
        return found | {"note": f"Pruning cost {lost:.2f} points of validation accuracy, so it was not kept."}
    return found | {"accepted": True, "note": f"Validation accuracy changed by {round(-lost, 2) + 0.0:+.2f} points."}


def _validation_score(build: Build, module: NetworkModule) -> float:
    images = evaluation_images(build.dataset, build.dataset.validation, module.network.input_shape[2])
    return score(predict(module, images), build.dataset.validation, build.dataset)
