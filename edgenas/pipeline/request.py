"""What a build is asked for, and how much effort goes into it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from edgenas.latency.profile import ProfilePlan
from edgenas.nets.recipe import Recipe
from edgenas.search.strategies import DEFAULT
from edgenas.search.strategy import SearchRule


@dataclass(frozen=True)
class OtherDevice:
    """A device that the network has to be fast enough on as well."""

    device: str
    latency_ms: float | None = None
    target: str | None = None


@dataclass(frozen=True)
class BuildRequest:
    """`latency_ms` None: half of what the largest subnet takes. `max_accuracy_drop` is in points (0.01 of accuracy): how much INT8
    may lose, and twice what pruning may. `strategy` is how the search goes about it, `max_minutes` bounds it; half of what is
    explored first are the best by the zero-cost proxy `warm_start`. `space` None: the one of `model`, a function that gives the
    user's own, else the default. `objective`: "accuracy" or "loss", of validation images. `runtime` and `threads` are those of
    `device`; each of `others` has those of its own file. `nproc`: how many processes of this machine train the supernet.
    `executor`: what runs evaluations and the finalists' training, with `task_threads` each."""

    device: str
    out: Path
    target: str | None = None
    runtime: str | None = None
    data: str | None = None
    space: str | None = None
    model: str | None = None
    objective: str = "accuracy"
    latency_ms: float | None = None
    size_mib: float | None = None
    peak_memory_mib: float | None = None
    macs_m: float | None = None
    params_m: float | None = None
    energy_mj: float | None = None
    max_accuracy_drop: float = 1.0
    strategy: str = DEFAULT
    warm_start: str | None = None
    max_minutes: float | None = None
    effort: str = "standard"
    threads: int | None = None
    seed: int = 0
    nproc: int = 1
    executor: str = "local"
    task_threads: int | None = None
    others: tuple[OtherDevice, ...] = ()

    @property
    def latency_flag(self) -> str:
        """What stands before the number in the budget of `device`."""
        return f"--latency-ms {self.device}=" if self.others else "--latency-ms "


@dataclass(frozen=True)
class Rung:
    """Of successive halving: how many of the search's best are trained by a recipe, from where the rung before left them; or, `fresh`,
    from new weights. A long training gains nothing from the weights of a supernet, which were made to serve many networks at once: from
    new ones and from a supernet's, by the same recipe, it came to 80.5 and 79.3 % of validation images on satellite pictures (10
    epochs), to 92.0 and 91.3, and to 91.8 and 91.7 % on the sample of Fashion-MNIST (15 epochs). A short one compares networks as
    a long one will only from new weights: a supernet favours some kinds of blocks, and after few epochs what it says of depthwise ones
    is chance."""

    finalists: int
    recipe: Recipe
    fresh: bool = False


@dataclass(frozen=True)
class Effort:
    """Everything that `--effort` decides; `rounds` is how often a build may search again after measuring, `shrinking` whether the
    supernet's training starts with its larger subnets. `newcomers`: subnets that join the finalists in the first rung of
    `fine_tune`, chosen by what its trainings came to."""

    plan: ProfilePlan
    supernet: Recipe
    focus: Recipe
    fine_tune: tuple[Rung, ...]
    after_pruning: Recipe
    search: SearchRule
    max_resolution_px: int
    rounds: int = 3
    shrinking: bool = False
    newcomers: int = 0


# A quick build's supernet is trained too little to teach: its largest network, at 86.3 % of the sample's validation images
# (before the supernet was focused), took what was trained for 15 epochs from new weights from 90.5 to 89.5, from 89.5 to 88.9 and
# from 90.3 to 88.5 % (three networks, one seed). Two epochs from inherited weights end the same with it and without. After
# pruning it was not measured: the student is ahead of the teacher there, too. It has no newcomers, either: two minutes of short
# trainings from new weights came to 90.4 % of the test images of Fashion-MNIST, and inherited weights to 90.2 % (FP32, one seed).
EFFORTS = {
    "quick": Effort(
        ProfilePlan(covering=52, odd=20, held_out=30),
        Recipe(epochs=6),
        Recipe(epochs=5, learning_rate=0.08, warmup_share=0.05),
        (
            Rung(8, Recipe(epochs=2)),
            Rung(3, Recipe(epochs=4)),
            Rung(1, Recipe(epochs=15, learning_rate=0.15, teacher_share=0), fresh=True),
        ),
        Recipe(epochs=5, learning_rate=0.03, teacher_share=0),
        SearchRule(evaluations=120),
        max_resolution_px=64,
    ),
    "standard": Effort(
        ProfilePlan(covering=120, odd=40, held_out=40),
        Recipe(epochs=30),
        Recipe(epochs=25, learning_rate=0.08, warmup_share=0.05),
        (
            Rung(12, Recipe(epochs=10, learning_rate=0.15), fresh=True),
            Rung(4, Recipe(epochs=20, learning_rate=0.15), fresh=True),
            Rung(2, Recipe(epochs=50, learning_rate=0.15), fresh=True),
        ),
        Recipe(epochs=15, learning_rate=0.03),
        SearchRule(explored=200, neighbours=150, start=80, population=40, evaluations=800, patience=240),
        max_resolution_px=128,
        newcomers=12,
    ),
    "max": Effort(
        ProfilePlan(covering=240, odd=80, held_out=60),
        Recipe(epochs=120),
        Recipe(epochs=60, learning_rate=0.08, warmup_share=0.05),
        (
            Rung(16, Recipe(epochs=20, learning_rate=0.15), fresh=True),
            Rung(6, Recipe(epochs=50, learning_rate=0.15), fresh=True),
            Rung(2, Recipe(epochs=150, learning_rate=0.15), fresh=True),
        ),
        Recipe(epochs=40, learning_rate=0.03),
        SearchRule(explored=600, neighbours=300, start=128, population=64, evaluations=3000, patience=640),
        max_resolution_px=224,
        newcomers=24,
    ),
}
SMALL_SET_IMAGES = 2000  # a set below this gets more epochs, so that training still takes a sensible number of steps
MAX_EPOCH_FACTOR = 4
TRAINED_RATE_SHARE = 0.2  # of a learning rate that is right for new weights


def epochs_for(recipe: Recipe, train_images: int) -> Recipe:
    """The recipe with its epochs scaled up for a small training set."""
    factor = min(MAX_EPOCH_FACTOR, max(1.0, SMALL_SET_IMAGES / train_images))
    return replace(recipe, epochs=round(recipe.epochs * factor))


def from_trained(effort: Effort) -> Effort:
    """For weights that are trained already: fewer epochs, at a rate that doesn't undo what they know. The user's model has something to
    teach, and its supernet is worth asking: no newcomers."""

    def taught(recipe: Recipe) -> Recipe:
        return replace(recipe, teacher_share=Recipe.teacher_share)

    def gentler(recipe: Recipe) -> Recipe:
        rate = recipe.learning_rate * TRAINED_RATE_SHARE
        return replace(taught(recipe), epochs=math.ceil(recipe.epochs / 2), learning_rate=rate)

    return replace(
        effort,
        supernet=gentler(effort.supernet),
        focus=gentler(effort.focus),
        newcomers=0,
        fine_tune=tuple(Rung(rung.finalists, gentler(rung.recipe)) for rung in effort.fine_tune),
        after_pruning=taught(effort.after_pruning),
    )
