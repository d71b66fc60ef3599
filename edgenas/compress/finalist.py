"""Training one finalist, as a task that any process which reads and writes the build's folder can do, and do again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from edgenas.compress.distill import fine_tune
from edgenas.compress.teacher import Teacher
from edgenas.data import Dataset
from edgenas.nets.module import NetworkModule
from edgenas.nets.recipe import Recipe
from edgenas.nets.training import load_checkpoint
from edgenas.network.graph import Network


@dataclass(frozen=True)
class FineTuning:
    """`network` is trained from the weights in `start` on, or from new ones; `trained` gets them after every epoch, and is gone on from
    if it exists."""

    network: Network
    start: Path | None
    trained: Path
    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class Lesson:
    """What all finalists are trained with. Only the training images are of use."""

    teacher: Teacher
    dataset: Dataset


def lesson(teacher: NetworkModule, dataset: Dataset) -> Lesson:
    none = dataset.train.at(np.arange(0))
    return Lesson(Teacher(teacher), replace(dataset, validation=none, calibration=none, test=none))


def train_finalist(lesson: Lesson, task: FineTuning, report: Callable[[float], None]) -> None:
    """`report` hears the epochs done."""
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        module = NetworkModule(task.network)
    if task.start is not None:
        load_checkpoint(task.start, module)
    fine_tune(module.eval(), lesson.teacher, lesson.dataset, task.recipe, task.seed, task.trained, report)
