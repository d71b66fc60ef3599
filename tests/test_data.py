"""Datasets: every source on real files, the laws of the splits, and what is said when data can't be used."""

import gzip
import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgenas import data
from edgenas.data import images, splits
from edgenas.data.dataset import assemble, channel_statistics
from edgenas.data.fashion_mnist import DEBIAN_DIR, FILES, LABELS, read_parts, write_idx
from edgenas.errors import InputError

SAMPLE_DIR = Path(__file__).parent.parent / "datasets" / "fashion-mnist-sample"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
Colour = tuple[int, int, int] | int


def load(spec: object, **options: int | None) -> data.Dataset:
    return data.load(None if spec is None else str(spec), sample_dir=SAMPLE_DIR, **options)  # type: ignore[arg-type]


def save(path: Path, colour: Colour = 90, size: tuple[int, int] = (40, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


def fill(folder: Path, counts: dict[str, int], colour: Colour | None = None) -> Path:
    """A class folder for each of `counts` with as many PNGs, all of them different."""
    for label, count in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            save(folder / label / f"{index:03}.png", index if colour is None else colour)
    return folder


def rows(part: data.Split) -> list[bytes]:
    return [image.tobytes() for image in part.images]


def refusal(spec: object, **options: int | None) -> InputError:
    with pytest.raises(InputError) as caught:
        load(spec, **options)
    assert caught.value.exit_code == 2
    return caught.value


# --- the bundled sample and Fashion-MNIST ---


@pytest.fixture(scope="module")
def sample() -> data.Dataset:
    return load(None)


def test_the_bundled_sample(sample: data.Dataset) -> None:
    assert (sample.name, sample.labels) == ("fashion-mnist-sample", LABELS)
    assert (sample.resolution_px, sample.channels, sample.flip, sample.unbalanced) == (28, 1, True, False)
    assert [len(p) for p in (sample.train, sample.validation, sample.calibration, sample.test)] == [
        10_500,
        1_500,
        320,
        10_000,
    ]
    for part in (sample.train, sample.validation, sample.calibration, sample.test):
        assert part.images.shape == (len(part), 28, 28, 1)
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int64)
        assert len(set(np.bincount(part.labels, minlength=10))) == 1
    assert sample.mean == pytest.approx((0.2862,), abs=5e-4)
    assert sample.std == pytest.approx((0.3530,), abs=1e-3)
    assert sample.warnings == ()
    assert sum(file.stat().st_size for file in SAMPLE_DIR.iterdir()) < 10_000_000
    assert "Zalando SE" in (SAMPLE_DIR / "LICENSE").read_text(encoding="utf-8")


def test_the_seed_decides_the_split_and_nothing_else(sample: data.Dataset) -> None:
    again, other = load(None), load(None, seed=1)
    assert again.fingerprint == sample.fingerprint
    # A lock file that was written once has to give this split for ever.
    assert sample.fingerprint == "9766557841da3b4192491b9d13e00155d7751a841a3946acf00883efaf259045"
    assert other.fingerprint != sample.fingerprint
    assert np.array_equal(other.test.images, sample.test.images)


@pytest.mark.skipif(not (DEBIAN_DIR / (FILES[0] + ".gz")).is_file(), reason="needs Debian's dataset-fashion-mnist")
def test_the_full_set_and_the_sample_taken_from_it(sample: data.Dataset) -> None:
    full = load("fashion-mnist")
    assert (full.name, full.labels) == ("fashion-mnist", LABELS)
    assert [len(p) for p in (full.train, full.validation, full.test)] == [55_000, 5_000, 10_000]
    assert np.array_equal(full.test.images, sample.test.images)
    train, _ = read_parts(DEBIAN_DIR, source="")
    chosen = sorted(index for label in range(10) for index in np.flatnonzero(train.labels == label)[:1200])
    kept, _ = read_parts(SAMPLE_DIR, source="")
    assert np.array_equal(kept.images, train.images[chosen])
    assert np.array_equal(kept.labels, train.labels[chosen])


def write_fashion_mnist(folder: Path, per_class: int = 8) -> Path:
    folder.mkdir()
    labels = np.tile(np.arange(10, dtype=np.uint8), per_class)
    pixels = np.random.RandomState(0).randint(0, 256, (len(labels), 28, 28)).astype(np.uint8)
    for name, values in zip(FILES, (pixels, labels, pixels, labels), strict=True):
        (folder / f"{name}.gz").write_bytes(gzip.compress(write_idx(values)))
    return folder


def test_fashion_mnist_from_a_folder(tmp_path: Path) -> None:
    dataset = load(f"fashion-mnist:{write_fashion_mnist(tmp_path / 'idx')}")
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [70, 10, 80]


def test_fashion_mnist_that_is_absent_or_damaged(tmp_path: Path) -> None:
    error = refusal(f"fashion-mnist:{tmp_path}")
    assert f"looked for train-images-idx3-ubyte.gz (or .xz, or unpacked) in {tmp_path}" in error.message
    assert "apt-get install dataset-fashion-mnist" in error.hint

    folder = write_fashion_mnist(tmp_path / "idx")
    images_file = folder / f"{FILES[0]}.gz"
    whole = images_file.read_bytes()
    images_file.write_bytes(whole[:1000])
    assert "train-images-idx3-ubyte.gz can't be read" in refusal(f"fashion-mnist:{folder}").message
    images_file.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    assert "its header says (80, 28, 28), but 62719 values follow" in refusal(f"fashion-mnist:{folder}").message
    images_file.write_bytes(gzip.compress(b"PK.."))
    assert "expected an IDX file of unsigned bytes" in refusal(f"fashion-mnist:{folder}").message
    images_file.write_bytes(gzip.compress(write_idx(np.zeros((80, 32, 32), np.uint8))))
    assert "expected (N, 28, 28) images" in refusal(f"fashion-mnist:{folder}").message


def test_a_missing_sample_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the bundled sample: looked for") as caught:
        data.load(None, sample_dir=tmp_path)
    assert "install edgenas again" in caught.value.hint


# --- image folders ---


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    fill(tmp_path / "pets", {"dog": 40, "cat": 80})
    seen: list[tuple[int, int]] = []
    dataset = data.load(str(tmp_path / "pets"), sample_dir=SAMPLE_DIR, use_progress=lambda *at: seen.append(at))
    assert (dataset.name, dataset.labels) == ("pets", ("cat", "dog"))
    assert (dataset.resolution_px, dataset.channels) == (32, 1)
    assert [np.bincount(p.labels).tolist() for p in (dataset.test, dataset.validation, dataset.train)] == [
        [16, 8],
        [8, 4],
        [56, 28],
    ]
    assert dataset.unbalanced
    assert dataset.warnings == ()
    assert seen == [(done, 120) for done in range(1, 121)]
    assert 0 < dataset.test.labels[:12].mean() < 1, "a prefix of a part holds both classes"
    assert load(tmp_path / "pets").fingerprint == dataset.fingerprint
    assert load(tmp_path / "pets", seed=3).fingerprint != dataset.fingerprint


@pytest.mark.parametrize("validation_name", ["val", "valid", "validation", "Val"])
def test_given_parts_are_kept(tmp_path: Path, validation_name: str) -> None:
    fill(tmp_path / "train", {"a": 5, "b": 5}, 10)
    fill(tmp_path / validation_name, {"a": 2, "b": 1}, 20)
    fill(tmp_path / "test", {"a": 1, "b": 3}, 30)
    dataset = load(tmp_path)
    parts = (dataset.train, dataset.validation, dataset.test)
    assert [(len(part), set(part.images.ravel().tolist())) for part in parts] == [(10, {10}), (3, {20}), (4, {30})]
    assert set(dataset.calibration.images.ravel().tolist()) == {10}


def test_missing_parts_come_from_the_training_part(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 20, "b": 20}, 10)
    fill(tmp_path / "val", {"a": 2, "b": 2}, 20)
    (tmp_path / "test").mkdir()
    save(tmp_path / "test" / "unlabelled.png")
    fill(tmp_path / "extra", {"a": 2})
    dataset = load(tmp_path)
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [32, 4, 8]
    assert dataset.warnings == (
        "folders beside train/ were left out: extra",
        "test/ has no class folders with images and was left out",
    )


def test_train_can_be_a_class(tmp_path: Path) -> None:
    assert load(fill(tmp_path, {"bus": 3, "test": 3, "train": 3})).labels == ("bus", "test", "train")


def test_awkward_files(tmp_path: Path) -> None:
    """Grey and colour, every EXIF orientation, palettes with alpha, 16 bits, damaged files, and what is no image."""
    root = fill(tmp_path / "photos", {"plain": 3}, RED)
    left_red = Image.new("RGB", (64, 48), BLUE)
    left_red.paste(RED, (0, 0, 32, 48))
    upright = {1: left_red}
    for orientation, undo in {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }.items():
        upright[orientation] = left_red.transpose(undo)
    (root / "turned" / "deep" / "er").mkdir(parents=True)
    for orientation, stored in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored.save(root / "turned" / "deep" / "er" / f"{orientation}.jpg", exif=exif, quality=95)
    odd = root / "odd"
    odd.mkdir()
    palette = Image.new("P", (50, 50), 1)
    palette.putpalette([*RED, *BLUE])
    palette.save(odd / "alpha.png", transparency=bytes([255, 0]))
    Image.new("RGBA", (50, 50), (*GREEN, 0)).save(odd / "clear.png")
    Image.new("LA", (50, 50), (0, 0)).save(odd / "clear_grey.PNG")
    Image.fromarray(np.full((50, 50), 65535, np.uint16)).save(odd / "sixteen.png")
    Image.new("CMYK", (50, 50), (0, 0, 0, 0)).save(odd / "print.jpeg", quality=95)
    Image.new("1", (50, 50), 1).save(odd / "one_bit.bmp")
    Image.new("L", (3000, 500), 255).save(odd / "wide.webp", lossless=True)
    whole = (root / "turned" / "deep" / "er" / "1.jpg").read_bytes()
    (odd / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (odd / "text.png").write_text("not a picture")
    (odd / "empty.jpg").touch()
    (odd / ".hidden.png").touch()
    (odd / "notes.txt").touch()
    (root / ".git").mkdir()
    (root / "__MACOSX").mkdir()

    dataset = load(root)
    assert dataset.labels == ("odd", "plain", "turned")
    assert (dataset.resolution_px, dataset.channels) == (48, 3)
    assert dataset.warnings[0] == "files of other types were left out: 1 .txt"
    assert dataset.warnings[1] == "3 unreadable files skipped: odd/cut.jpg, odd/empty.jpg, odd/text.png"
    parts = (dataset.train, dataset.validation, dataset.test)
    pixels = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    assert np.bincount(labels).tolist() == [7, 3, 5]
    assert (pixels[labels == 0] >= 250).all(), "all of them are white, or laid over white"
    turned = pixels[labels == 2].astype(int)
    assert (turned[:, :, :20, 0] - turned[:, :, :20, 2] > 200).all(), "red on the left"
    assert (turned[:, :, 28:, 2] - turned[:, :, 28:, 0] > 200).all(), "blue on the right"


def test_the_short_side_is_resized_and_the_centre_cropped(tmp_path: Path) -> None:
    stripes = Image.new("RGB", (300, 100), BLUE)
    stripes.paste(RED, (100, 0, 200, 100))
    stripes.save(tmp_path / "wide.png")
    small = images.decode(tmp_path / "wide.png", 50, 3)
    assert (small[:, 1:-1] == RED).all()
    whole = stripes.resize((150, 50), Image.Resampling.BILINEAR).crop((50, 0, 100, 50))
    assert np.array_equal(small, np.asarray(whole))
    checker = np.indices((200, 200)).sum(axis=0) % 2 * 255
    Image.fromarray(checker.astype(np.uint8)).save(tmp_path / "fine.png")
    assert abs(images.decode(tmp_path / "fine.png", 40, 1) - 127.5).max() < 16, (
        "antialiased: a fine pattern becomes its mean"
    )


def test_grey_pictures_stored_in_colour_have_one_channel(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3}, 40)
    fill(tmp_path, {"b": 4}, (70, 70, 70))
    assert load(tmp_path).channels == 1
    save(tmp_path / "b" / "000.png", RED)
    assert load(tmp_path).channels == 3


@pytest.mark.parametrize(
    ("short_side", "cap", "expected"),
    [(20, None, 28), (31, None, 28), (32, None, 32), (100, None, 96), (4000, None, 224), (4000, 100, 96), (50, 28, 28)],
)
def test_the_resolution_follows_the_median_short_side(short_side: int, cap: int | None, expected: int) -> None:
    sides = [short_side, short_side, 9999, 5, short_side]
    chosen = images.choose_resolution(sides, image_count=5, channels=3, max_resolution_px=cap, ram_bytes=None)
    assert chosen == (expected, "")


def test_the_resolution_is_lowered_before_the_memory_is_full(tmp_path: Path) -> None:
    px, note = images.choose_resolution(
        [500], image_count=100_000, channels=3, max_resolution_px=None, ram_bytes=8 * 2**30
    )
    assert px == 64
    assert note == "100000 images at 224 px would fill this machine's memory: read at 64 px"
    fill(tmp_path, {"a": 3, "b": 3})
    assert load(tmp_path, max_resolution_px=28).resolution_px == 28
    assert "at least 28 px, but got 8 px" in refusal(tmp_path, max_resolution_px=8).message


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    for label in "ab":
        for index in range(3):
            save(tmp_path / label / f"{index}.png", index, (8, 5))
    assert load(tmp_path).train.images.shape == (2, 28, 28, 1)


def test_links_are_followed_once(tmp_path: Path) -> None:
    fill(tmp_path / "store", {"a": 4})
    root = fill(tmp_path / "root", {"b": 4})
    try:
        (root / "a").symlink_to(tmp_path / "store" / "a")
        (root / "b" / "loop").symlink_to(root / "b")
    except OSError:
        pytest.skip("no permission to make links")
    dataset = load(root)
    assert sum(len(p) for p in (dataset.train, dataset.validation, dataset.test)) == 8


def make_nothing(root: Path) -> None:
    root.mkdir()


def make_one_class(root: Path) -> None:
    fill(root, {"cats": 5})


def make_nested(root: Path) -> None:
    fill(root / "photos", {"cats": 5, "dogs": 5})


def make_loose(root: Path) -> None:
    fill(root, {".": 4})


def make_other_types(root: Path) -> None:
    (root / "cats").mkdir(parents=True)
    (root / "cats" / "1.heic").touch()


def make_small_class(root: Path) -> None:
    fill(root, {"cats": 5, "dogs": 2, "newts": 0})


def make_broken_class(root: Path) -> None:
    fill(root, {"cats": 5, "dogs": 5})
    for index in range(3):
        (root / "dogs" / f"{index:03}.png").write_text("no")


def make_all_broken(root: Path) -> None:
    fill(root, {"cats": 3, "dogs": 3})
    for path in root.glob("*/*"):
        path.write_text("no")


def make_unknown_class(root: Path) -> None:
    fill(root / "train", {"cats": 5, "dogs": 5})
    fill(root / "test", {"cats": 1, "newts": 1, "eels": 1})


def make_two_validation_parts(root: Path) -> None:
    fill(root / "train", {"cats": 5, "dogs": 5})
    fill(root / "val", {"cats": 1})
    fill(root / "valid", {"cats": 1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_nothing, "expected class folders with images, but found no .jpg, .jpeg, .png, .bmp, .webp file"),
        (make_other_types, "expected class folders with images, but found no .jpg"),
        (make_one_class, "expected at least two classes, but found only one class, 'cats'"),
        (make_nested, "expected at least two classes, but found only the folder 'photos'"),
        (make_loose, "expected class folders with images, but 4 images lie in"),
        (make_small_class, "needs at least 3 readable training images, but 'dogs' has 2, 'newts' has 0"),
        (make_broken_class, "needs at least 3 readable training images, but 'dogs' has 2"),
        (make_all_broken, "none of its 6 image files can be read"),
        (make_unknown_class, "test/ has classes that train/ does not have: eels, newts"),
        (make_two_validation_parts, "expected one validation folder, but found val, valid"),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / "photos")
    error = refusal(tmp_path / "photos")
    assert error.message.startswith(f"`--data {tmp_path / 'photos'}`: ")
    assert message in error.message
    assert "\n" not in error.message


def test_a_folder_within_a_folder_is_suggested(tmp_path: Path) -> None:
    make_nested(tmp_path)
    assert f"did you mean `--data {tmp_path / 'photos'}`?" in refusal(tmp_path).hint


@pytest.mark.parametrize("spec", ["/nowhere", "", "fashion_mnist", "a:b:c", "x" * 5000])
def test_what_is_nothing_at_all(spec: str) -> None:
    error = refusal(spec)
    assert "no such folder" in error.message or "can't be read" in error.message
    assert "`package.module:function`" in error.hint


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").touch()
    assert "expected a folder, but this is a file" in refusal(tmp_path / "photos.zip").message


# --- functions ---

MODULE = '''
"""Datasets as a user may write them."""
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

print("a user's module may print")
labels = torch.arange(40) % 2
bright = torch.linspace(0, 1, 40)
value = 7

class Pictures(Dataset):
    classes = ["even", "odd"]
    def __len__(self): return 40
    def __getitem__(self, i): return Image.new("RGB", (50, 70), (i, 0, 0)), i % 2

class Named(Dataset):
    def __init__(self, names): self.classes = names.split()
    def __len__(self): return 30
    def __getitem__(self, i): return Image.new("RGB", (50, 70), (i, 0, 0)), i % len(self.classes)

class Stream(IterableDataset):
    def __iter__(self): yield torch.zeros(1, 28, 28), 0

def items(image, label=lambda i: i % 2): return [(image(i), label(i)) for i in range(40)]

def pictures(): return Pictures()
def without_test(): return Pictures(), None
def lacks_a_class(): return Named("ant bee cat"), Named("ant cat")
def has_another_class(): return Named("ant bee"), Named("ant dog")
def pair(): return Pictures(), Subset(Pictures(), range(6))
def three_parts(): return Pictures(), Subset(Pictures(), range(8)), Subset(Pictures(), range(6))
def tensors(): return TensorDataset(bright[:, None, None, None].expand(40, 3, 28, 28), labels)
def channels_last(): return items(lambda i: np.full((32, 32, 3), (i, 0, 0), np.uint8))
def grey(): return items(lambda i: np.full((32, 36), i, np.uint8), lambda i: np.int32(i % 2))
def numbers_from_one(): return items(lambda i: np.zeros((28, 28), np.uint8), lambda i: 1 + i % 2)
def stream(): return Stream()
def number(): return 3
def nothing(): return []
def fails(): raise RuntimeError("no disk")
def needs_argument(root): return Pictures()
def no_pair(): return [torch.zeros(1, 28, 28)] * 9
def normalised(): return items(lambda i: torch.full((1, 28, 28), -2.0))
def nan(): return items(lambda i: torch.full((1, 28, 28), float("nan")))
def wide(): return items(lambda i: np.zeros((28, 28, 5), np.uint8))
def integers(): return items(lambda i: np.zeros((28, 28), np.int64))
def text_image(): return items(lambda i: "a.jpg")
def text_label(): return items(lambda i: np.zeros((28, 28), np.uint8), lambda i: "cat")
def float_label(): return items(lambda i: np.zeros((28, 28), np.uint8), lambda i: 0.5)
def negative(): return items(lambda i: np.zeros((28, 28), np.uint8), lambda i: -1)
def too_many(): return Subset(TooMany(), range(40))
class TooMany(Pictures):
    def __getitem__(self, i): return super().__getitem__(i)[0], 2 + i % 2
class Raises(Pictures):
    def __getitem__(self, i): raise OSError("lost")
def raises(): return Raises()
'''


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "edgenas_user_sets.py").write_text(MODULE)
    (folder / "edgenas_user_broken.py").write_text("import no_such_package_here")
    return folder


@pytest.fixture
def in_user_folder(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user_folder)


@pytest.mark.usefixtures("in_user_folder")
@pytest.mark.parametrize(
    ("function", "labels", "shape", "sizes"),
    [
        ("pictures", ("even", "odd"), (48, 48, 3), (28, 4, 8)),
        ("Pictures", ("even", "odd"), (48, 48, 3), (28, 4, 8)),
        ("pair", ("even", "odd"), (48, 48, 3), (36, 4, 6)),
        ("three_parts", ("even", "odd"), (48, 48, 3), (40, 8, 6)),
        ("without_test", ("even", "odd"), (48, 48, 3), (28, 4, 8)),
        ("tensors", ("0", "1"), (28, 28, 1), (28, 4, 8)),
        ("channels_last", ("0", "1"), (32, 32, 3), (28, 4, 8)),
        ("grey", ("0", "1"), (32, 32, 1), (28, 4, 8)),
    ],
)
def test_a_function_of_the_user(
    function: str, labels: Sequence[str], shape: Sequence[int], sizes: Sequence[int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(sys.path)
    dataset = load(f"edgenas_user_sets:{function}")
    assert dataset.labels == labels
    assert dataset.train.images.shape[1:] == shape
    assert tuple(len(p) for p in (dataset.train, dataset.validation, dataset.test)) == sizes
    assert sys.path == before
    assert capsys.readouterr().out == "", "stdout is for results"


@pytest.mark.usefixtures("in_user_folder")
def test_classes_of_every_part_are_told_by_their_names() -> None:
    """torchvision's ImageFolder numbers the classes that a folder has: one that lacks a class counts others."""
    dataset = load("edgenas_user_sets:lacks_a_class")
    assert dataset.labels == ("ant", "bee", "cat")
    assert sorted(set(dataset.test.labels.tolist())) == [0, 2]
    with pytest.raises(InputError, match="its test part has the class 'dog', which the training part doesn't have"):
        load("edgenas_user_sets:has_another_class")


@pytest.mark.usefixtures("in_user_folder")
def test_progress_counts_through_all_parts() -> None:
    seen: list[tuple[int, int]] = []
    data.load("edgenas_user_sets:three_parts", sample_dir=SAMPLE_DIR, use_progress=lambda *at: seen.append(at))
    assert seen == [(done, 54) for done in range(1, 55)]


@pytest.mark.usefixtures("in_user_folder")
def test_floats_become_bytes() -> None:
    dataset = load("edgenas_user_sets:tensors")
    values = [p.images[:, 0, 0, 0] for p in (dataset.train, dataset.validation, dataset.test)]
    assert sorted(np.concatenate(values)) == np.rint(np.linspace(0, 1, 40) * 255).astype(int).tolist()


@pytest.mark.usefixtures("in_user_folder")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("picturs", "the module edgenas_user_sets has no 'picturs'"),
        ("value", "expected a function, but 'value' is int"),
        ("stream", "expected a dataset with len() and [index], but got edgenas_user_sets.Stream"),
        ("number", "expected a dataset with len() and [index], but got int"),
        ("nothing", "expected a dataset of images, but got an empty one"),
        ("fails", "the function failed: RuntimeError: no disk"),
        ("needs_argument", "the function failed: TypeError: needs_argument() missing 1 required"),
        ("no_pair", "expected (image, label) as item 0, but got torch.Tensor of shape (1, 28, 28)"),
        ("normalised", "item 0: expected floats in 0..1, but they range from -2 to -2"),
        ("nan", "item 0: expected floats in 0..1, but they range from nan to nan"),
        ("wide", "item 0: expected 1 or 3 channels, first or last, but the shape is (28, 28, 5)"),
        ("integers", "item 0: expected uint8 or floats, but got int64 of shape (28, 28, 1)"),
        ("text_image", "item 0: expected a PIL image or an array (H, W, C), but got str"),
        ("text_label", "item 0: expected an integer as the label, but got str"),
        ("float_label", "item 0: expected an integer as the label, but got float"),
        ("negative", "item 0: expected a label from 0 on, but got -1"),
        ("numbers_from_one", "needs at least 3 readable training images, but '0' has 0"),
        ("too_many", "expected labels in 0..1 for its 2 classes, but got 3"),
        ("raises", "item 0 can't be read: OSError: lost"),
    ],
)
def test_a_function_that_cannot_be_used(function: str, message: str) -> None:
    error = refusal(f"edgenas_user_sets:{function}")
    assert error.message.startswith(f"`--data edgenas_user_sets:{function}`: ")
    assert message in error.message
    assert error.hint


@pytest.mark.usefixtures("in_user_folder")
def test_a_module_that_cannot_be_imported() -> None:
    error = refusal("edgenas_no_such:f")
    assert "the module edgenas_no_such can't be imported: ModuleNotFoundError" in error.message
    assert "No module named 'no_such_package_here'" in refusal("edgenas_user_broken:f").message
    assert refusal("edgenas_user_sets:picturs").hint == "did you mean `edgenas_user_sets:pictures`?"


# --- laws ---

class_counts = st.lists(st.integers(3, 60), min_size=2, max_size=8)


def numbered(counts: Sequence[int]) -> data.Split:
    """One pixel quadruple per image, so that every image can be told from every other."""
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = labels[splits.shuffled(len(labels), 7)]
    pixels = np.arange(len(labels), dtype="<u4").view(np.uint8).reshape(-1, 2, 2, 1)
    return data.Split(pixels, labels)


@settings(max_examples=60, deadline=None)
@given(counts=class_counts, seed=st.integers(-3, 2**70))
def test_splits_are_disjoint_complete_and_deterministic(counts: list[int], seed: int) -> None:
    names = [str(label) for label in range(len(counts))]
    whole = numbered(counts)
    first, second = (assemble("n", names, whole, seed=seed, source="s") for _ in range(2))
    assert first.fingerprint == second.fingerprint
    parts = [rows(part) for part in (first.train, first.validation, first.test)]
    assert sorted(itertools.chain(*parts)) == sorted(rows(whole))
    assert set(rows(first.calibration)) <= set(parts[0])
    label_of = dict(zip(rows(whole), whole.labels, strict=True))
    for part in (first.train, first.validation, first.test, first.calibration):
        assert [label_of[row] for row in rows(part)] == part.labels.tolist()
        assert len(set(part.labels.tolist())) == len(counts), "at least one image of each class"


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(1, 2000), min_size=1, max_size=12), share=st.floats(0.01, 1))
def test_quotas_are_proportional(counts: list[int], share: float) -> None:
    array = np.array(counts)
    total = max(1, int(share * array.sum()))
    quotas = splits.allocate(array, total)
    assert ((quotas >= 1) & (quotas <= array)).all()
    assert quotas.sum() <= max(total, len(counts))
    exact = total * array / array.sum()
    if (exact >= 1).all():
        assert (np.abs(quotas - exact) < 1).all()


def test_sizes_are_capped() -> None:
    assert (splits.test_size(100), splits.validation_size(100), splits.validation_size(60_000)) == (20, 12, 5_000)
    many = assemble("n", [str(i) for i in range(400)], numbered([3] * 400), seed=0, source="s")
    assert len(many.calibration) == 320


def test_balance_ends_at_one_and_a_half() -> None:
    assert not assemble("n", ["a", "b"], numbered([21, 14]), test=numbered([3, 3]), seed=0, source="s").unbalanced
    assert assemble("n", ["a", "b"], numbered([40, 14]), test=numbered([3, 3]), seed=0, source="s").unbalanced


def test_a_class_without_test_images_is_told() -> None:
    dataset = assemble("n", ["a", "b"], numbered([9, 9]), test=numbered([4]), seed=0, source="s")
    assert dataset.warnings == ("no test images of b",)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 600))
def test_statistics_are_those_of_numpy(seed: int, count: int) -> None:
    pixels = np.random.RandomState(seed).randint(0, 256, (count, 3, 2, 3)).astype(np.uint8)
    mean, std = channel_statistics(pixels)
    assert mean == pytest.approx((pixels / 255).mean(axis=(0, 1, 2)))
    assert std == pytest.approx((pixels / 255).std(axis=(0, 1, 2)))


def test_a_constant_channel_can_still_be_normalised() -> None:
    assert channel_statistics(np.full((2, 2, 2, 1), 51, np.uint8)) == (pytest.approx((0.2,)), (1 / 255,))


@settings(max_examples=50, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50))
def test_balanced_accuracy_is_the_mean_recall(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = np.array(pairs).T
    recalls = [np.mean(predicted[labels == label] == label) for label in set(labels.tolist())]
    assert data.balanced_accuracy(predicted, labels, 5) == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize("balanced", [False, True])
def test_the_error_of_a_difference_is_that_of_drawing_the_images_again(balanced: bool) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [300, 200, 40])
    one, other = (np.where(rng.random(len(labels)) < share, labels, 3) for share in (0.9, 0.8))
    classes = [np.flatnonzero(labels == c) for c in range(3)] if balanced else [np.arange(len(labels))]
    hits = (one == labels).astype(float) - (other == labels)
    again = [np.mean([hits[rng.choice(part, len(part))].mean() for part in classes]) for _ in range(4000)]
    found = data.difference_error(one, other, labels, 4 if balanced else None)
    assert found == pytest.approx(np.std(again), rel=0.05)


def test_equal_predictions_differ_without_any_error() -> None:
    labels = np.array([0, 1, 1, 2])
    for classes in (None, 3):
        assert data.difference_error(np.zeros(4, int), np.zeros(4, int), labels, classes) == 0


@pytest.mark.parametrize("balanced", [False, True])
def test_the_error_of_an_accuracy_is_the_spread_of_drawing_images(balanced: bool) -> None:
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), (200, 50, 20))
    drawn = [np.where(rng.random(len(labels)) < 0.8, labels, (labels + 1) % 3) for _ in range(2000)]
    found = [data.balanced_accuracy(p, labels, 3) if balanced else (p == labels).mean() for p in drawn]
    assert data.accuracy_error(0.8, labels, 3 if balanced else None) == pytest.approx(np.std(found), rel=0.06)


def test_balanced_accuracy_of_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="two equal, non-empty"):
        data.balanced_accuracy(np.zeros(3), np.zeros(2, int), 2)
    with pytest.raises(ValueError, match=r"labels in 0\.\.1, got 0\.\.2"):
        data.balanced_accuracy(np.zeros(2), np.array([0, 2]), 2)


def test_the_sample_needs_neither_pillow_nor_torch() -> None:
    code = (
        "import pathlib, sys; from edgenas import data; data.load(None, sample_dir=pathlib.Path(sys.argv[1]));"
        "sys.exit(bool({'PIL', 'torch'} & set(sys.modules)))"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code, str(SAMPLE_DIR)], cwd=root, check=True, timeout=60)
