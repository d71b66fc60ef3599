"""Make the bundled sample of Fashion-MNIST again, byte for byte, from the full set.

    python tools/make_sample.py            # from Debian's dataset-fashion-mnist into datasets/fashion-mnist-sample
    python tools/make_sample.py --check    # write nothing; exit 1 if the files there differ

The sample is the first 1,200 images of each class of the training file, in the order of that file (which is already a
random one), and all 10,000 test images. They stay IDX files, xz-compressed without threads, so that the same liblzma
gives the same bytes.
"""

import argparse
import lzma
import sys
from pathlib import Path

import numpy as np

from edgenas.data.dataset import Split
from edgenas.data.fashion_mnist import DEBIAN_DIR, FILES, LABELS, read_parts, write_idx

IMAGES_PER_CLASS = 1_200
SAMPLE_DIR = Path(__file__).resolve().parent.parent / "datasets" / "fashion-mnist-sample"


def choose(labels: np.ndarray) -> np.ndarray:
    """Sorted indices of the first IMAGES_PER_CLASS of each class in `labels` (N,)."""
    per_class = [np.flatnonzero(labels == label)[:IMAGES_PER_CLASS] for label in range(len(LABELS))]
    return np.sort(np.concatenate(per_class))


def sample_files(train: Split, test: Split) -> dict[str, bytes]:
    """The four files by name."""
    train = train.at(choose(train.labels))
    arrays = (train.images[..., 0], train.labels, test.images[..., 0], test.labels)
    contents = (lzma.compress(write_idx(array.astype(np.uint8)), preset=9) for array in arrays)
    return {f"{name}.xz": content for name, content in zip(FILES, contents, strict=True)}


def main() -> int:
    """Write or check the sample; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=DEBIAN_DIR, help="folder of the full set (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=SAMPLE_DIR, help="where the sample lies (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    files = sample_files(*read_parts(options.source, source="the full set"))
    if options.check:
        differing = [
            name
            for name, content in files.items()
            if not (options.out / name).is_file() or (options.out / name).read_bytes() != content
        ]
        print(f"differ: {', '.join(differing)}" if differing else "identical", file=sys.stderr)
        return 1 if differing else 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (options.out / name).write_bytes(content)
        print(f"{options.out / name}: {len(content):,} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
