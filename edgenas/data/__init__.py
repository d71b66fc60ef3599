"""Datasets: where the images come from, how they are split, and the figures that training and deployment share.

    from edgenas import data
    dataset = data.load(None, sample_dir=folder)    # the bundled sample; or an image folder, Fashion-MNIST, a function

Whatever the source, a `Dataset` comes out: uint8 images of one square size, in four parts. Validation and calibration
come from training data; the test part is for the final measurement alone. Neither torch nor Pillow is imported until
a source needs it.
"""

from edgenas.data.accuracy import accuracy_error, balanced_accuracy, difference_error
from edgenas.data.dataset import Dataset, Split
from edgenas.data.sources import load

__all__ = ["Dataset", "Split", "accuracy_error", "balanced_accuracy", "difference_error", "load"]
