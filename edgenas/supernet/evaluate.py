"""How good any subnet is, straight from the shared weights: its accuracy, or how likely it holds the right classes to be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from edgenas.data import Dataset, Split, balanced_accuracy
from edgenas.nets.evaluate import logits, predict, recalibrate
from edgenas.nets.feed import evaluation_images
from edgenas.nets.module import Layers, NetworkModule, extract
from edgenas.spaces.space import SearchSpace, Subnet

RECALIBRATION_IMAGES = 750


class SubnetJudge:
    """Cuts a subnet out, recalibrates its BatchNorm on training images, and scores it on validation images.

    The score is top-1 accuracy, or balanced accuracy where the classes are unbalanced.
    """

    def __init__(self, space: SearchSpace, supernet: Layers, dataset: Dataset) -> None:
        self.space, self.supernet, self.dataset = space, supernet, dataset
        rows = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[:RECALIBRATION_IMAGES]
        self._recalibration = dataset.train.at(rows.numpy())
        self._images: dict[tuple[str, int], torch.Tensor] = {}

    def module(self, subnet: Subnet) -> NetworkModule:
        """The subnet with inherited weights and statistics of its own, ready to run."""
        module = extract(self.supernet, self.space.network(subnet))
        recalibrate(module, self._at("recalibration", self._recalibration, module.network.input_shape[2]))
        return module

    def score(self, subnet: Subnet) -> float:
        module = self.module(subnet)
        images = self._at("validation", self.dataset.validation, module.network.input_shape[2])
        return score(predict(module, images), self.dataset.validation, self.dataset)

    def likelihood(self, subnet: Subnet) -> float:
        """exp(-validation loss), 0 to 1: higher is better, and the order is that of the loss."""
        module = self.module(subnet)
        images = self._at("validation", self.dataset.validation, module.network.input_shape[2])
        return likelihood(logits(module, images), self.dataset.validation, self.dataset)

    def _at(self, name: str, split: Split, px: int) -> torch.Tensor:
        if (name, px) not in self._images:
            self._images[name, px] = evaluation_images(self.dataset, split, px)
        return self._images[name, px]


def score_of(judge: SubnetJudge, subnet: Subnet, report: Callable[[float], None]) -> float:
    """As a task, for whatever process has the judge."""
    return judge.score(subnet)


def likelihood_of(judge: SubnetJudge, subnet: Subnet, report: Callable[[float], None]) -> float:
    return judge.likelihood(subnet)


def score(predicted: torch.Tensor, split: Split, dataset: Dataset) -> float:
    if dataset.unbalanced:
        return balanced_accuracy(predicted.numpy(), split.labels, len(dataset.labels))
    return float((predicted.numpy() == split.labels).mean())


def likelihood(found: torch.Tensor, split: Split, dataset: Dataset) -> float:
    """exp of minus the mean cross-entropy of logits (N, classes); where the classes are unbalanced, each class weighs the same."""
    losses = F.cross_entropy(found.float(), torch.from_numpy(split.labels).long(), reduction="none").numpy()
    if dataset.unbalanced:
        losses = np.array([losses[split.labels == label].mean() for label in np.unique(split.labels)])
    return float(np.exp(-losses.mean()))
