"""Fine-tuning a network with distillation from a larger one, resumable after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from edgenas.data import Dataset
from edgenas.nets.feed import TrainingFeed, resized
from edgenas.nets.module import NetworkModule
from edgenas.nets.training import (
    Optimiser,
    Recipe,
    channels_last,
    load_checkpoint,
    mixed_precision,
    save_checkpoint,
    soft_cross_entropy,
)

SOFT_SHARE = 0.4  # of the loss; the rest is cross entropy on the labels
TEMPERATURE = 1.0


def fine_tune(
    module: NetworkModule,
    teacher: NetworkModule,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    checkpoint: Path,
    on_step: Callable[[float], None] = lambda epochs: None,
) -> NetworkModule:
    """Trains `module` in place and returns it, in evaluation mode. Goes on from `checkpoint` if it exists."""
    channels_last(module)
    channels_last(teacher).eval()
    feed = TrainingFeed(dataset, recipe.batch_size, seed, erase=True)
    optimiser = Optimiser(module, recipe, feed.steps)
    start = load_checkpoint(checkpoint, module, optimiser)
    px, teacher_px = module.network.input_shape[2], teacher.network.input_shape[2]
    module.train()
    for epoch in range(start, recipe.epochs):
        for step, (images, labels) in enumerate(feed.epoch(epoch)):
            with torch.no_grad(), mixed_precision():
                soft = teacher(images if teacher_px == images.shape[2] else resized(images, teacher_px)).float()
            with mixed_precision():
                logits = module(images if px == images.shape[2] else resized(images, px)).float()
            hard = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            loss = SOFT_SHARE * soft_cross_entropy(logits, soft, TEMPERATURE) + (1 - SOFT_SHARE) * hard
            loss.backward()
            optimiser.step(epoch, step)
            on_step(epoch + (step + 1) / feed.steps)
        save_checkpoint(checkpoint, module, optimiser, epoch + 1)
    return module.eval()
