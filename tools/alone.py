"""Training networks alone with the recipe of a build's last step, for the benchmarks that compare with searched ones.

The teacher answers each batch once: what it said is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from edgenas.compress.distill import fine_tune
from edgenas.compress.teacher import Teacher
from edgenas.data import Dataset
from edgenas.nets.module import NetworkModule
from edgenas.nets.recipe import Recipe
from edgenas.network.graph import Network


@dataclass
class Alone:
    """`dataset` and `teacher` are what all networks of a comparison share. Teachers' answers are kept in `folder`, one file a seed and
    recipe; `key` names the teacher in it."""

    dataset: Dataset
    teacher: Callable[[], NetworkModule]
    folder: Path
    key: str
    _teachers: dict[str, Teacher] = field(default_factory=dict)

    def train(self, network: Network, recipe: Recipe, seed: int) -> NetworkModule:
        """From random weights, ready to run."""
        name = f"said-{self.key}-{seed}-{recipe.epochs}-{recipe.batch_size}"
        path = self.folder / f"{name}.pt"
        if name not in self._teachers:
            self._teachers.clear()  # one at a time: of a large set the answers take some ten MB an epoch
            self._teachers[name] = Teacher(self.teacher(), torch.load(path) if path.exists() else {})
        teacher = self._teachers[name]
        known = len(teacher.answers)
        torch.manual_seed(seed)
        checkpoint = self.folder / f"training-{self.key}-{seed}.safetensors"
        checkpoint.unlink(missing_ok=True)
        module = fine_tune(NetworkModule(network), teacher, self.dataset, recipe, seed, checkpoint)
        checkpoint.unlink()
        if len(teacher.answers) > known:
            torch.save(teacher.answers, path)
        return module
