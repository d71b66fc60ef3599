"""Accuracy where classes are unbalanced."""

import numpy as np


def balanced_accuracy(predicted: np.ndarray, labels: np.ndarray, class_count: int) -> float:
    """The mean over classes of the part of a class's images that is recognised (macro recall), in 0..1.

    `predicted` and `labels` are (N,) class indices; a class without an image in `labels` is left out of the mean.
    Raises ValueError for different shapes, no labels at all, or a label outside 0..class_count-1.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape or labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"expected two equal, non-empty (N,) arrays, got {predicted.shape} and {labels.shape}")
    if labels.min() < 0 or labels.max() >= class_count:
        raise ValueError(f"expected labels in 0..{class_count - 1}, got {labels.min()}..{labels.max()}")
    total = np.bincount(labels, minlength=class_count)
    hits = np.bincount(labels[predicted == labels], minlength=class_count)
    present = total > 0
    return float(np.mean(hits[present] / total[present]))


def accuracy_error(accuracy: float, labels: np.ndarray, class_count: int | None = None) -> float:
    """Standard error of an accuracy (0..1) on images of these (N,) classes, from which images were drawn: that of a proportion with one
    more image right and one wrong, for all right doesn't mean always right (Agresti & Coull, 1998). `class_count`: of balanced
    accuracy, as if every class were recognised as well as all."""
    accuracy = (accuracy * len(labels) + 1) / (len(labels) + 2)
    images = np.bincount(labels, minlength=class_count)[:class_count] if class_count else np.array([len(labels)])
    images = images[images > 0]
    return float(np.sqrt(accuracy * (1 - accuracy) * (1 / images).sum()) / len(images))


def difference_error(one: np.ndarray, other: np.ndarray, labels: np.ndarray, class_count: int | None = None) -> float:
    """Standard error of the difference in accuracy (0..1) between two predictions of the same images: they are compared image by image,
    since what both get right or wrong says nothing about the difference. `class_count`: of balanced accuracy, with the images of each
    class drawn on their own; None: of plain accuracy. All three are (N,) class indices."""
    differences = (one == labels).astype(float) - (other == labels)
    if class_count is None:
        return float(differences.std() / np.sqrt(len(differences)))
    total = np.bincount(labels, minlength=class_count)
    present = total > 0
    sums, squares = (np.bincount(labels, d, minlength=class_count)[present] for d in (differences, differences**2))
    total = total[present]
    variances = squares / total - (sums / total) ** 2
    return float(np.sqrt((variances / total).sum()) / len(total))
