"""Fine-tuning a network with distillation from a larger one, resumable after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from edgenas.compress.teacher import Teacher
from edgenas.data import Dataset
from edgenas.nets.average import average_of
from edgenas.nets.feed import TrainingFeed, resized
from edgenas.nets.module import NetworkModule
from edgenas.nets.recipe import Recipe
from edgenas.nets.training import (
    Optimiser,
    channels_last,
    load_checkpoint,
    log_priors,
    mixed_precision,
    save_checkpoint,
    soft_cross_entropy,
)

TEMPERATURE = 1.0


def fine_tune(
    module: NetworkModule,
    teacher: Teacher,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    checkpoint: Path,
    on_step: Callable[[float], None] = lambda epochs: None,
) -> NetworkModule:
    """Trains `module` in place and returns it, in evaluation mode. Goes on from `checkpoint` if it exists."""
    channels_last(module)
    feed = TrainingFeed(dataset, recipe.batch_size, seed, erase=True)
    optimiser = Optimiser(module, recipe, feed.steps)
    average, priors = average_of(module, recipe), log_priors(dataset)
    start = load_checkpoint(checkpoint, module, optimiser, average)
    px = module.network.input_shape[2]
    module.train()
    for epoch in range(start, recipe.epochs):
        for step, (images, labels) in enumerate(feed.epoch(epoch)):
            with mixed_precision():
                logits = module(images if px == images.shape[2] else resized(images, px)).float()
            loss = F.cross_entropy(logits + priors, labels, label_smoothing=recipe.label_smoothing)
            if recipe.teacher_share:
                soft = teacher.logits(images, (seed, recipe.batch_size, epoch, step))
                loss = torch.lerp(loss, soft_cross_entropy(logits, soft, TEMPERATURE), recipe.teacher_share)
            loss.backward()
            optimiser.step(epoch, step)
            if average is not None:
                average.update(epoch * feed.steps + step)
            on_step(epoch + (step + 1) / feed.steps)
        save_checkpoint(checkpoint, module, optimiser, epoch + 1, average)
    if average is not None:
        average.give()
    return module.eval()
