"""Which image goes into which part: stratified by class, and decided by the seed alone.

The order is drawn from raw PCG64 words, whose stream NumPy promises to keep (NEP 19); `Generator.permutation` has no
such promise, and an old lock file has to give the same split under a newer NumPy.
"""

import numpy as np

TEST, VALIDATION, CALIBRATION, ORDER = range(4)  # one stream of random words for each purpose

TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.125
VALIDATION_MAX = 5_000
CALIBRATION_MAX = 320


def allocate(counts: np.ndarray, total: int) -> np.ndarray:
    """How many to take of each class so that they sum up to about `total` in proportion to `counts` (K,).

    At least one of every class that has any, otherwise rounded down; the sum passes `total` only where a single image
    of each class already does.
    """
    quotas: np.ndarray = np.maximum(total * counts // max(int(counts.sum()), 1), 1)
    quotas = np.minimum(quotas, counts)
    while quotas.sum() > total and quotas.max() > 1:
        quotas[quotas.argmax()] -= 1
    return quotas


def take(labels: np.ndarray, class_count: int, total: int, *, seed: int, stream: int) -> np.ndarray:
    """Sorted indices into `labels` (N,) of about `total` images, stratified as `allocate` says."""
    quotas = allocate(np.bincount(labels, minlength=class_count), total)
    chosen = [np.empty(0, np.int64)]
    for label in np.flatnonzero(quotas):
        members = np.flatnonzero(labels == label)
        chosen.append(members[shuffled(len(members), seed, stream, int(label))[: quotas[label]]])
    return np.sort(np.concatenate(chosen))


def shuffled(count: int, *key: int) -> np.ndarray:
    """The permutation of 0..count-1 that belongs to `key`, the same in every process and every version of NumPy."""
    words = np.random.PCG64(np.random.SeedSequence([part & (2**64 - 1) for part in key])).random_raw(count)
    return np.argsort(words, kind="stable")


def test_size(count: int) -> int:
    """How many of `count` images are held out where the source brings no test part."""
    return round(count * TEST_FRACTION)


def validation_size(count: int) -> int:
    """How many of `count` training images become validation images."""
    return min(VALIDATION_MAX, round(count * VALIDATION_FRACTION))
