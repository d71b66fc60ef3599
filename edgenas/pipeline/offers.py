"""What a build offers a search strategy besides the space, the latencies and the scores from the supernet."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.latency.fastest import FastestPredictor
from edgenas.pipeline.context import Build
from edgenas.pipeline.request import Rung
from edgenas.search.evaluations import ScoreMany
from edgenas.search.strategies import needs, refuse_unless_offered
from edgenas.search.strategies.differentiable import STEPS
from edgenas.search.strategy import Relaxation
from edgenas.spaces.cell_stack import CellStack

if TYPE_CHECKING:
    from edgenas.pipeline.training import Supernet

EPOCHS_SHARE = (
    0.5  # of those of the first training of the finalists: so long is the search's first one, and the next twice that
)
ENTRANTS = (2, 1)  # times as many as there are finalists


@dataclass(frozen=True)
class Trainings:
    """Short trainings of candidates on their own, the r-th of them longer than the one before: how many candidates have their turn,
    and what gives candidates' scores after it. `key` tells apart what scores depend on."""

    entrants: tuple[int, ...] = ()
    scores: tuple[ScoreMany, ...] = ()
    key: Any = None


NONE = Trainings()


def check_strategy(build: Build) -> None:
    """Raises InputError for a strategy that needs what this build doesn't offer."""
    mixing = ["relaxation"] if isinstance(build.space, CellStack) else []
    refuse_unless_offered(build.request.strategy, ["training", *mixing])


def trainings(build: Build, supernet: Supernet, predictor: FastestPredictor) -> Trainings:
    """For a strategy that asks for them; none for the others."""
    if "training" not in needs(build.request.strategy):
        return NONE
    from edgenas.pipeline.finalists import Rungs

    first, rungs = build.effort.fine_tune[0], []
    for number, times in enumerate(ENTRANTS):
        epochs = max(1, round(first.recipe.epochs * EPOCHS_SHARE * 2**number))
        rungs.append(Rung(first.finalists * times, replace(first.recipe, epochs=epochs), first.fresh))
    candidates = Rungs(build, supernet, predictor, rungs, quiet=True)
    scores = tuple(partial(candidates.train, rung=number) for number in range(len(rungs)))
    return Trainings(tuple(rung.finalists for rung in rungs), scores, [asdict(rung) for rung in rungs])


def relaxation(build: Build, supernet: Supernet, folder: Path) -> Relaxation | None:
    """For a strategy that asks for it: of a copy of the supernet's weights, with what it was asked kept in `folder`."""
    if "relaxation" not in needs(build.request.strategy) or not isinstance(build.space, CellStack):
        return None
    from edgenas.supernet.relaxation import RelaxedSupernet

    def report(calls: int) -> None:
        build.progress.update(calls, STEPS, f"step {calls} of {STEPS} with all operations mixed")

    weights = supernet.load().supernet
    return RelaxedSupernet(build.space, weights, build.dataset, build.request.seed, folder, report)
