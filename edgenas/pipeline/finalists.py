"""The best few of the search, not one: a supernet ranks its subnets roughly, so training of their own decides between them.

What decides is the validation accuracy of the file that would be shipped, INT8 where that is the faster precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgenas.artifacts.kernel import Precision
from edgenas.compress.finalist import FineTuning, Lesson, lesson, train_finalist
from edgenas.latency.fastest import FastestPredictor
from edgenas.nets.module import NetworkModule
from edgenas.nets.training import load_checkpoint, save_checkpoint
from edgenas.pipeline.context import Build
from edgenas.pipeline.judging import score_in
from edgenas.pipeline.request import Rung, epochs_for
from edgenas.pipeline.training import Supernet, teacher
from edgenas.search.halving import successive_halving
from edgenas.search.refine import Room, refined
from edgenas.spaces.space import Subnet
from edgenas.store import Stage

INHERITED, TRAINED = "inherited.safetensors", "trained.safetensors"
CHECKED = 2  # times as many newcomers as go on: at the edge of the budget half of them take longer than predicted


@dataclass(frozen=True)
class Best:
    """The finalist that won: as it was cut out of the supernet, and trained. `standings`: of all of them, the best first, the
    validation accuracy after each rung."""

    subnet: Subnet
    inherited: NetworkModule
    trained: NetworkModule
    standings: tuple[dict[str, Any], ...]
    key: str


def train_finalists(
    build: Build, supernet: Supernet, subnets: Sequence[Subnet], predictor: FastestPredictor, room: Room | None = None
) -> Best:
    """Trains `subnets`, the most promising first, and where there is `room` the effort's newcomers, by successive halving, with
    distillation from the largest subnet."""
    first, *others = build.effort.fine_tune
    subnets = subnets[: first.finalists]
    if room and build.effort.newcomers:
        entered = replace(first, finalists=len(subnets) + build.effort.newcomers)
        ranked = _with_newcomers(build, Rungs(build, supernet, predictor, [entered]), subnets, room)
        subnets = measured(ranked, others[0].finalists if others else 1, subnets, room)
    asked = [replace(rung, finalists=min(rung.finalists, len(subnets))) for rung in others]
    rungs = Rungs(build, supernet, predictor, [replace(first, finalists=len(subnets)), *asked])
    inputs = [rungs.scored(subnet, rungs.last).key for subnet in subnets]
    stage = build.store.stage("fine-tune", [*inputs, rungs.entrants])
    title = f"Training the best {len(subnets)}" if len(subnets) > 1 else "Fine-tuning the winner"
    with build.progress.stage("fine-tune", title, cached=stage.is_done):
        if not stage.is_done:
            standings = successive_halving(subnets, rungs.entrants, rungs.train)
            stage.finish([{"genome": each.candidate.genome, "scores": each.scores} for each in standings])
    outcome = [(build.space.subnet(tuple(each["genome"])), each["scores"]) for each in stage.outcome()]
    best = outcome[0][0]
    return Best(
        best,
        rungs.inherited(best),
        rungs.trained(best, rungs.last),
        tuple({"id": subnet.id, "scores": scores} for subnet, scores in outcome),
        rungs.weights(best, rungs.last).key,
    )


def _with_newcomers(build: Build, rungs: Rungs, start: Sequence[Subnet], room: Room) -> list[Subnet]:
    """`start` and the newcomers, trained by the first rung, the best first."""
    count = build.effort.newcomers
    inputs = [rungs.scored(subnet, 0).key for subnet in start]
    stage = build.store.stage("newcomers", [*inputs, count, room.key])
    title = f"Training the search's best {len(start)} and {count} others a little"
    with build.progress.stage("newcomers", title, cached=stage.is_done):
        if not stage.is_done:
            found = refined(build.space, start, room, count, partial(rungs.train, rung=0), build.request.seed)
            stage.finish([subnet.genome for subnet in found])
    return [build.space.subnet(tuple(genome)) for genome in stage.outcome()]


def measured(ranked: Sequence[Subnet], going_on: int, start: Sequence[Subnet], room: Room) -> list[Subnet]:
    """Those of `ranked` that may be trained on, the first `going_on` of them measured to be within the budgets, as `start` was before.
    From the top on as many are measured as that takes; what of them is over a budget is left out."""
    found: list[Subnet] = []
    left, size = list(ranked), CHECKED * going_on
    while left and len(found) < going_on:
        together, left = left[:size], left[size:]
        new = [subnet for subnet in together if subnet not in start]
        fitting = {*start, *(room.fitting(new) if new else ())}
        found += [subnet for subnet in together if subnet in fitting]
    return [*found, *left]


class Rungs:
    """The stages of each candidate's training: one a rung for the weights, which don't depend on the device, and one for their score.
    `quiet`: progress is shown by somebody else."""

    def __init__(
        self,
        build: Build,
        supernet: Supernet,
        predictor: FastestPredictor,
        rungs: Sequence[Rung],
        *,
        quiet: bool = False,
    ) -> None:
        self.build, self.supernet, self.predictor, self.quiet = build, supernet, predictor, quiet
        self.recipes = [epochs_for(rung.recipe, len(build.dataset.train)) for rung in rungs]
        self.fresh = [rung.fresh for rung in rungs]
        self.entrants = [rung.finalists for rung in rungs]
        self.last = len(self.recipes) - 1
        self.epochs_done = 0
        self.lesson: Lesson | None = None

    def train(self, subnets: Sequence[Subnet], rung: int) -> list[float]:
        """Trains those on by this rung's recipe that were not before, wherever the build's tasks run, and returns the scores of all."""
        recipe = self.recipes[rung]
        untrained = [subnet for subnet in subnets if not self.weights(subnet, rung).is_done]
        if untrained:
            self.epochs_done += recipe.epochs * (len(subnets) - len(untrained))
            before = self.epochs_done
            trainings = [self._training(subnet, rung) for subnet in untrained]
            trained = self.build.executor.map(
                train_finalist,
                trainings,
                self._lesson(),
                lambda index, epochs: self._report(before + index * recipe.epochs + epochs, epochs, rung),
            )
            for subnet, _ in zip(untrained, trained, strict=True):
                self.weights(subnet, rung).finish({})
                self.epochs_done += recipe.epochs
                self._report(self.epochs_done, recipe.epochs, rung)
        else:
            self.epochs_done += recipe.epochs * len(subnets)
        return [self._score(subnet, rung) for subnet in subnets]

    def _training(self, subnet: Subnet, rung: int) -> FineTuning:
        start = self._start(subnet, rung)
        trained = self.weights(subnet, rung).path(TRAINED)
        network, seed = self.build.space.network(subnet), self.build.request.seed
        return FineTuning(network, start and start.absolute(), trained.absolute(), self.recipes[rung], seed)

    def _start(self, subnet: Subnet, rung: int) -> Path | None:
        if self.fresh[rung]:
            return None
        return self.weights(subnet, rung - 1).path(TRAINED) if rung else self._inherited(subnet)

    def _lesson(self) -> Lesson:
        """One and the same for all rungs."""
        if self.lesson is None:
            self.lesson = lesson(teacher(self.build, self.supernet), self.build.dataset)
        return self.lesson

    def _score(self, subnet: Subnet, rung: int) -> float:
        """Found out here: what judges may be the device, which this process alone talks to."""
        scored = self.scored(subnet, rung)
        if not scored.is_done:
            module = self.trained(subnet, rung)
            scored.finish({"score": score_in(self.build, module, self._precision(subnet))})
        return float(scored.outcome()["score"])

    def _inherited(self, subnet: Subnet) -> Path:
        """With the supernet's weights; kept, since cutting it out takes the whole supernet and training images."""
        path = self.weights(subnet, 0).path(INHERITED)
        if not path.exists():
            save_checkpoint(path, self.supernet.load().module(subnet), None, 0)
        return path

    def inherited(self, subnet: Subnet) -> NetworkModule:
        self._inherited(subnet)
        return self._loaded(subnet, INHERITED, 0)

    def trained(self, subnet: Subnet, rung: int) -> NetworkModule:
        return self._loaded(subnet, TRAINED, rung)

    def weights(self, subnet: Subnet, rung: int) -> Stage:
        # what was before new weights doesn't matter to them
        start = max((r for r in range(rung + 1) if self.fresh[r]), default=0)
        recipes = [asdict(recipe) for recipe in self.recipes[start : rung + 1]]
        inputs = [self.supernet.key, subnet.genome, recipes, self.fresh[start : rung + 1], self.build.request.seed]
        return self.build.store.stage("finalist", inputs)

    def scored(self, subnet: Subnet, rung: int) -> Stage:
        machine, precision = self.build.machine, self._precision(subnet)
        inputs = [self.weights(subnet, rung).key, precision, machine.weight_bits, machine.judge.runtime.NAME]
        return self.build.store.stage("finalist-score", inputs)

    def _precision(self, subnet: Subnet) -> Precision:
        return self.predictor.precision(self.build.space.network(subnet))

    def _loaded(self, subnet: Subnet, file: str, rung: int) -> NetworkModule:
        module = NetworkModule(self.build.space.network(subnet))
        load_checkpoint(self.weights(subnet, rung).path(file), module)
        return module.eval()

    def _report(self, epochs_done: float, epochs: float, rung: int) -> None:
        if self.quiet:
            return
        recipe = self.recipes[rung]
        total = sum(n * each.epochs for n, each in zip(self.entrants, self.recipes, strict=True))
        note = f"epoch {min(int(epochs) + 1, recipe.epochs)} of {recipe.epochs}"
        if len(self.recipes) > 1:
            note = f"{self.entrants[rung]} left, {note}"
        self.build.progress.update(epochs_done, total, note)
