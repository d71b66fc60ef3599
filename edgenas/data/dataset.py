"""The dataset that every source comes down to, and the one way to make it from labelled images."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.data import splits
from edgenas.errors import InputError

MIN_CLASS_IMAGES = 3  # one each for training, validation and test
UNBALANCED_RATIO = 1.5
ONE_FOLDER_PER_CLASS = "give one folder per class with at least 3 images in each: DIR/cat/1.jpg, DIR/dog/1.jpg, ..."


@dataclass(frozen=True, eq=False)  # eq=False: comparing arrays has no single truth value; compare fingerprints
class Split:
    """Labelled images: `images` uint8 (N, H, W, C) with C = 1 or 3 (RGB), `labels` int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: np.ndarray) -> "Split":
        """A copy of the images at `indices`."""
        return Split(self.images[indices], self.labels[indices])

    def without(self, indices: np.ndarray) -> "Split":
        """A copy of all but the images at `indices`, in the same order."""
        return self.at(np.delete(np.arange(len(self)), indices))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images in four parts, with what a network and a deployed model have to know of them.

    `train`, `validation` and `test` are disjoint; `calibration` is a stratified subset of `train` of at most 320
    images. All images are `resolution_px` square. `mean` and `std` are per channel, of the training images scaled to
    0..1. `fingerprint` is the SHA-256 of content, split and labels. `unbalanced`: the largest class of `train` has
    more than 1.5 times the images of the smallest. `flip`: mirroring left and right is a sensible augmentation.
    `warnings` are sentences for the user about what was skipped or changed.
    """

    name: str
    labels: tuple[str, ...]
    resolution_px: int
    channels: int
    train: Split
    validation: Split
    calibration: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    unbalanced: bool
    flip: bool
    warnings: tuple[str, ...]


def assemble(
    name: str,
    labels: Sequence[str],
    train: Split,
    *,
    validation: Split | None = None,
    test: Split | None = None,
    seed: int,
    source: str,
    flip: bool = True,
    warnings: Sequence[str] = (),
) -> Dataset:
    """Split what the source did not split, and derive the figures.

    Without `test`, 20 % of `train` is held out first; without `validation`, 12.5 % of what remains (at most 5,000).
    `source` is how error messages call the data. Raises InputError as `check_classes` does.
    """
    count = len(labels)
    check_classes(labels, np.bincount(train.labels, minlength=count), source)
    notes = list(warnings)
    if test is None:
        held = splits.take(train.labels, count, splits.test_size(len(train)), seed=seed, stream=splits.TEST)
        train, test = train.without(held), train.at(held)
    if validation is None:
        size = splits.validation_size(len(train))
        held = splits.take(train.labels, count, size, seed=seed, stream=splits.VALIDATION)
        train, validation = train.without(held), train.at(held)
    for part, what in ((validation, "validation"), (test, "test")):
        present = np.bincount(part.labels, minlength=count)
        if absent := [label for label, images in zip(labels, present, strict=True) if images == 0]:
            notes.append(f"no {what} images of {listed(absent)}")
    size = min(splits.CALIBRATION_MAX, len(train))
    chosen = splits.take(train.labels, count, size, seed=seed, stream=splits.CALIBRATION)
    calibration = train.at(chosen[: splits.CALIBRATION_MAX])  # more classes than that: not one of each
    mean, std = channel_statistics(train.images)
    counts = np.bincount(train.labels, minlength=count)
    parts = {"train": train, "validation": validation, "calibration": calibration, "test": test}
    return Dataset(
        name=name,
        labels=tuple(labels),
        resolution_px=train.images.shape[1],
        channels=train.images.shape[3],
        train=train,
        validation=validation,
        calibration=calibration,
        test=test,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(labels, parts),
        unbalanced=bool(counts.max() > UNBALANCED_RATIO * counts.min()),
        flip=flip,
        warnings=tuple(notes),
    )


def check_classes(labels: Sequence[str], counts: np.ndarray, source: str) -> None:
    """Raise InputError for fewer than two classes, or a class with fewer than 3 images in `counts` (K,)."""
    if len(labels) < 2:
        found = f"only one class, {labels[0]!r}" if labels else "no class"
        raise InputError(f"{source}: expected at least two classes, but found {found}", ONE_FOLDER_PER_CLASS)
    small = [f"{name!r} has {n}" for name, n in zip(labels, counts, strict=True) if n < MIN_CLASS_IMAGES]
    if small:
        raise InputError(
            f"{source}: every class needs at least {MIN_CLASS_IMAGES} readable training images, but {listed(small)}",
            "add images to these classes or remove them",
        )


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 `images` (N, H, W, C), scaled to 0..1.

    Computed in integers and rounded once, so that it is the same on every machine. A channel that never changes gets
    a deviation of 1/255, so that dividing by it stays finite.
    """
    means, deviations = [], []
    for channel in range(images.shape[3]):
        histogram = np.zeros(256, np.int64)
        for start in range(0, len(images), 512):
            histogram += np.bincount(images[start : start + 512, :, :, channel].ravel(), minlength=256)
        count, total, squares = (sum(int(n) * v**power for v, n in enumerate(histogram)) for power in range(3))
        means.append(total / (255 * count))
        deviations.append(max(math.sqrt(squares * count - total**2) / (255 * count), 1 / 255))
    return tuple(means), tuple(deviations)


def _fingerprint(labels: Sequence[str], parts: dict[str, Split]) -> str:
    digest = hashlib.sha256()
    shapes = {name: part.images.shape for name, part in parts.items()}
    digest.update(json.dumps([list(labels), shapes]).encode())
    for part in parts.values():
        digest.update(np.ascontiguousarray(part.images).data)
        digest.update(part.labels.astype("<i8").data)
    return digest.hexdigest()


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many there are beyond."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
