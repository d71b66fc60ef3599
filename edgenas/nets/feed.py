"""uint8 images -> normalised float batches, augmented for training. The same seed and epoch give the same batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgenas.data import Dataset, Split

SHIFT_SHARE = 14  # images are shifted by up to a fourteenth of their side: 2 px at 28
ERASED_SHARE = 0.25  # of the images; a square of a third of the side, set to the mean


@dataclass(frozen=True)
class Preprocessing:
    """value = (byte / 255 - mean) / std per channel, NCHW; what the shipped model's `model.json` says."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: np.ndarray, px: int) -> Tensor:
        """uint8 (N, H, W, C) -> float32 (N, C, px, px), resized with antialiasing where the side differs."""
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
        if x.shape[-1] != px:
            x = resized(x, px)
        mean, std = (torch.tensor(v, dtype=torch.float32).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


def resized(x: Tensor, px: int) -> Tensor:
    return F.interpolate(x, (px, px), mode="bilinear", antialias=True, align_corners=False)


def preprocessing(dataset: Dataset) -> Preprocessing:
    return Preprocessing(dataset.mean, dataset.std)


class TrainingFeed:
    """Batches of the training images at the dataset's own resolution."""

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, *, erase: bool = False) -> None:
        self.images = preprocessing(dataset)(dataset.train.images, dataset.resolution_px)
        self.labels = torch.from_numpy(dataset.train.labels)
        self.batch_size = min(batch_size, len(self.labels))
        self.seed, self.flip, self.erase = seed, dataset.flip, erase
        background = [-m / s for m, s in zip(dataset.mean, dataset.std, strict=True)]  # black
        self.background = torch.tensor(background).reshape(1, -1, 1, 1)

    @property
    def steps(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) in a fresh order; the last, incomplete batch is left out."""
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(len(self.labels), generator=rng)
        for step in range(self.steps):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._augmented(self.images[rows], rng), self.labels[rows]

    def _augmented(self, x: Tensor, rng: torch.Generator) -> Tensor:
        count, _, side, _ = x.shape
        if self.flip:
            mirrored = torch.rand(count, generator=rng) < 0.5
            x = torch.where(mirrored.reshape(-1, 1, 1, 1), x.flip(3), x)
        reach = max(1, side // SHIFT_SHARE)
        padded = self.background.expand(count, -1, side + 2 * reach, side + 2 * reach).clone()
        padded[:, :, reach : reach + side, reach : reach + side] = x
        offsets = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=rng)
        rows, columns = (offset + torch.arange(side) for offset in offsets)
        x = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        if self.erase:
            x = self._erased(x, rng)
        # not asked for by name: images of one channel are contiguous in either layout, and torch goes by the strides they have
        return x.permute(0, 3, 1, 2)

    @staticmethod
    def _erased(x: Tensor, rng: torch.Generator) -> Tensor:
        """(N, H, W, C), with random erasing (Zhong et al., AAAI 2020) to the mean, which is 0 after normalisation."""
        count, side = x.shape[:2]
        size = max(1, side // 3)
        top, left = torch.randint(0, side - size + 1, (2, count, 1), generator=rng)
        line = torch.arange(side)
        inside = ((line >= top) & (line < top + size))[:, :, None] & ((line >= left) & (line < left + size))[:, None, :]
        chosen = torch.rand(count, generator=rng) < ERASED_SHARE
        return x.masked_fill((inside & chosen[:, None, None])[..., None], 0.0)


def evaluation_images(dataset: Dataset, split: Split, px: int) -> Tensor:
    return preprocessing(dataset)(split.images, px)
