"""tools/hold_out_blocks.py: no validation image shares a pixel with a training image."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import hold_out_blocks
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

SIZE_PX = 4


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """Every second pixel of a map of 40 x 40, so that neighbours overlap by half."""
    for row, column in product(range(0, 36, 2), repeat=2):
        file = tmp_path / "patches/train" / ("wet" if row < 18 else "dry") / f"{row:04d}_{column:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIZE_PX, SIZE_PX), (row, column, 0)).save(file)
    (tmp_path / "patches/test/wet").mkdir(parents=True)
    Image.new("RGB", (SIZE_PX, SIZE_PX)).save(tmp_path / "patches/test/wet/0100_0100.png")
    return tmp_path / "patches"


def pixels(folder: Path) -> set[tuple[int, int]]:
    corners = [tuple(map(int, file.stem.split("_"))) for file in folder.glob("*/*.png")]
    return {(row + i, column + j) for row, column in corners for i, j in product(range(SIZE_PX), repeat=2)}


def test_parts_share_no_pixel_and_the_test_part_stays(patches: Path, tmp_path: Path) -> None:
    out = tmp_path / "by-block"
    done = CliRunner().invoke(hold_out_blocks.main, [str(patches), str(out), "--block-px", "10"])
    assert done.exit_code == 0, done.output
    train, validation = pixels(out / "train"), pixels(out / "val")
    assert train and validation and not train & validation
    counts = json.loads(done.output)
    assert sum(counts["val"].values()) == len(list((out / "val").glob("*/*")))
    assert all(
        0.1 < counts["val"][name] / (counts["val"][name] + counts["train"][name]) < 0.4 for name in ("wet", "dry")
    )
    assert [file.name for file in (out / "test").glob("*/*")] == ["0100_0100.png"]


@pytest.mark.parametrize(
    "options", [("--block-px", "100"), ("--block-px", "10", "--share", "1")], ids=["one block", "all of it"]
)
def test_what_leaves_a_part_without_a_class_is_refused(patches: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    done = CliRunner().invoke(hold_out_blocks.main, [str(patches), str(tmp_path / "out"), *options])
    assert done.exit_code == 2 and "take smaller ones" in done.output and not (tmp_path / "out").exists()


@given(st.integers(0, 1000), st.floats(0.1, 0.9), st.integers(2, 30))
def test_nothing_is_lost_but_what_overlaps(seed: int, share: float, block_px: int) -> None:
    places = np.random.default_rng(seed).integers(0, 60, (50, 2))
    labels = np.arange(50) % 3
    held, kept = hold_out_blocks.split(places, labels, block_px, SIZE_PX, share, seed)
    assert not (held & kept).any()
    distance_px = np.abs(places[:, None] - places[held][None]).max(axis=2)
    assert (kept == (distance_px >= SIZE_PX).all(axis=1)).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [("photo.png", "<row>_<column>"), ("1_2_3.png", "<row>_<column>")],
    ids=["a word", "three numbers"],
)
def test_other_names_are_refused(tmp_path: Path, name: str, said: str) -> None:
    file = tmp_path / "patches/train/wet" / name
    file.parent.mkdir(parents=True)
    Image.new("RGB", (SIZE_PX, SIZE_PX)).save(file)
    done = CliRunner().invoke(
        hold_out_blocks.main, [str(tmp_path / "patches"), str(tmp_path / "out"), "--block-px", "10"]
    )
    assert done.exit_code == 2 and said in done.output and not (tmp_path / "out").exists()
