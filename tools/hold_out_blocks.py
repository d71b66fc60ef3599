"""Validation images of other places, for a folder of patches that were cut out of a map and overlap.

    python tools/hold_out_blocks.py ./patches ./patches-by-block --block-px 225

Files are named <row>_<column>, their upper left corner on the map. Where a random part of the training images is the validation
part, most of it overlaps images that a network was trained with, and networks that memorise look best. Here whole square blocks of
the map are held out, of many draws that in which each class has the most even share, and the training images that overlap one of them
are left out. A test part stays as it is. Images are hard links where that works.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import click
import numpy as np
from PIL import Image

DRAWS = 2000


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--block-px", type=click.IntRange(1), required=True, help="The side of a block, in pixels of the map.")
@click.option("--share", type=click.FloatRange(0, 1), default=0.2, show_default=True, help="Of the blocks, held out.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def main(source: Path, out: Path, block_px: int, share: float, seed: int) -> None:
    if out.exists():
        raise click.UsageError(f"{out} exists: name a folder that doesn't.")
    files = sorted((source / "train").glob("*/*"))
    if not files:
        raise click.UsageError(f"{source} has no images in train/<class>/.")
    if odd := [file.name for file in files if not re.fullmatch(r"\d+_\d+", file.stem)]:
        raise click.UsageError(f"expected files named <row>_<column>, but got {odd[0]}.")
    places = np.array([[int(part) for part in file.stem.split("_")] for file in files])
    with Image.open(files[0]) as image:
        size_px = image.size[0]
    names, labels = np.unique([file.parent.name for file in files], return_inverse=True)
    if (source / "val").exists():
        raise click.UsageError(f"{source} has a validation part already.")
    is_held, is_kept = split(places, labels, block_px, size_px, share, seed)
    for label, name in enumerate(names):
        own = labels == label
        if not (own & is_held).any() or not (own & is_kept).any():
            raise click.UsageError(
                f"the blocks leave one part without any of {name}: take smaller ones or another share."
            )
    counts = {}
    for part, chosen in (("val", is_held), ("train", is_kept)):
        found = [file for file, own in zip(files, chosen, strict=True) if own]
        for file in found:
            linked(file, out / part / file.parent.name / file.name)
        counts[part] = Counter(file.parent.name for file in found)
    for file in (source / "test").glob("*/*"):
        linked(file, out / file.relative_to(source))
    click.echo(json.dumps(counts))


def split(
    places: np.ndarray, labels: np.ndarray, block_px: int, size_px: int, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) rows and columns of square images and (N,) classes -> two boolean (N,): in a block that is held out; in none, and
    overlapping no image that is in one."""
    names, of_image = np.unique((places + size_px // 2) // block_px, axis=0, return_inverse=True)
    images = np.zeros((len(names), labels.max() + 1))  # of each class in each block
    np.add.at(images, (of_image.reshape(-1), labels), 1)
    rng = np.random.default_rng(seed)
    draws = [rng.permutation(len(names))[: round(share * len(names))] for _ in range(DRAWS)]
    chosen = min(draws, key=lambda draw: np.abs(images[draw].sum(axis=0) / images.sum(axis=0) - share).max())
    held = np.isin(of_image.reshape(-1), chosen)
    overlaps = [(np.abs(places[held] - place) < size_px).all(axis=1).any() for place in places]
    return held, ~held & ~np.array(overlaps, bool)


def linked(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


if __name__ == "__main__":
    main()
