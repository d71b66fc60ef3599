"""What a build is asked for, and how much effort goes into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgenas.latency.profile import ProfilePlan
from edgenas.nets.training import Recipe
from edgenas.search.evolution import SearchRule


@dataclass(frozen=True)
class BuildRequest:
    """`latency_ms` None: half of the largest subnet's measured INT8 p50. `max_accuracy_drop` is in points (0.01 of accuracy):
    how much INT8 may lose, and twice what pruning may. `max_minutes` bounds the search."""

    device: str
    out: Path
    target: str | None = None
    data: str | None = None
    latency_ms: float | None = None
    max_accuracy_drop: float = 1.0
    max_minutes: float | None = None
    effort: str = "standard"
    threads: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Effort:
    """Everything that `--effort` decides; `rounds` is how often a build may search again after measuring."""

    plan: ProfilePlan
    supernet: Recipe
    focus: Recipe
    fine_tune: Recipe
    after_pruning: Recipe
    search: SearchRule
    max_resolution_px: int
    rounds: int = 3


EFFORTS = {
    "quick": Effort(
        ProfilePlan(covering=52, odd=20, held_out=30),
        Recipe(epochs=6),
        Recipe(epochs=5, learning_rate=0.08, warmup_share=0.05),
        Recipe(epochs=18, learning_rate=0.15),
        Recipe(epochs=5, learning_rate=0.03),
        SearchRule(evaluations=180),
        max_resolution_px=64,
    ),
    "standard": Effort(
        ProfilePlan(covering=120, odd=40, held_out=40),
        Recipe(epochs=30),
        Recipe(epochs=25, learning_rate=0.08, warmup_share=0.05),
        Recipe(epochs=50, learning_rate=0.15),
        Recipe(epochs=15, learning_rate=0.03),
        SearchRule(explored=200, neighbours=150, start=80, population=40, evaluations=800, patience=6),
        max_resolution_px=128,
    ),
    "max": Effort(
        ProfilePlan(covering=240, odd=80, held_out=60),
        Recipe(epochs=120),
        Recipe(epochs=60, learning_rate=0.08, warmup_share=0.05),
        Recipe(epochs=150, learning_rate=0.15),
        Recipe(epochs=40, learning_rate=0.03),
        SearchRule(explored=600, neighbours=300, start=128, population=64, evaluations=3000, patience=10),
        max_resolution_px=224,
    ),
}
SMALL_SET_IMAGES = 2000  # a set below this gets more epochs, so that training still takes a sensible number of steps
MAX_EPOCH_FACTOR = 4


def epochs_for(recipe: Recipe, train_images: int) -> Recipe:
    """The recipe with its epochs scaled up for a small training set."""
    from dataclasses import replace

    factor = min(MAX_EPOCH_FACTOR, max(1.0, SMALL_SET_IMAGES / train_images))
    return replace(recipe, epochs=round(recipe.epochs * factor))
