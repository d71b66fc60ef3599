"""An image folder as a dataset: `DIR/<class>/...`, or `DIR/train/<class>/...` with `val/` and `test/` beside it."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from edgenas.data import images, splits
from edgenas.data.dataset import ONE_FOLDER_PER_CLASS, Dataset, Split, assemble, check_classes, listed
from edgenas.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
PART_NAMES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}

Progress = Callable[[int, int], None]  # images done, images in all
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Files:
    """The image files of one part, in a shuffled order, and the class of each."""

    paths: list[Path]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, indices: Sequence[int]) -> "_Files":
        return _Files([self.paths[i] for i in indices], self.labels[list(indices)])


def load_folder(
    root: Path, *, source: str, seed: int, max_resolution_px: int | None = None, progress: Progress | None = None
) -> Dataset:
    """Read all images below `root` (px and channels as `edgenas.data.load` says).

    Raises InputError for no class folders, too few classes or images, and classes of `val/` or `test/` that `train/`
    does not have. Unreadable files are skipped and named in the warnings.
    """
    notes: list[str] = []
    labels, parts = _scan(root, source, notes)
    broken: list[Path] = []
    train, probes = _probe(parts["train"], broken)
    if not probes:
        raise InputError(f"{source}: none of its {len(parts['train'])} image files can be read", ONE_FOLDER_PER_CLASS)
    parts["train"] = train
    image_count = sum(map(len, parts.values()))
    channels = 1 if all(grey for _, grey in probes) else 3
    resolution_px, note = images.choose_resolution(
        [short_side for short_side, _ in probes],
        image_count=image_count,
        channels=channels,
        max_resolution_px=max_resolution_px,
        ram_bytes=images.physical_memory_bytes(),
    )
    notes += [note] if note else []
    tick = _counter(progress, image_count)
    read = {"train": _decode(train, resolution_px, channels, broken, tick)}
    if channels == 3 and images.all_grey(read["train"].images):  # grey pictures that are stored as colour ones
        channels = 1
        read["train"] = Split(read["train"].images[..., :1].copy(), read["train"].labels)
    for name in ("validation", "test"):
        part = _decode(parts[name], resolution_px, channels, broken, tick) if name in parts else None
        if part:  # a part of which nothing can be read counts as absent
            read[name] = part
    if broken:
        names = sorted(path.relative_to(root).as_posix() for path in broken)
        notes.append(f"{len(names)} unreadable file{'s' * (len(names) > 1)} skipped: {listed(names)}")
    return assemble(
        root.resolve().name,
        labels,
        read["train"],
        validation=read.get("validation"),
        test=read.get("test"),
        seed=seed,
        source=source,
        warnings=notes,
    )


def _scan(root: Path, source: str, notes: list[str]) -> tuple[list[str], dict[str, _Files]]:
    """The classes and, for each part that is there, its image files; nothing is opened."""
    folders = _part_folders(root, source, notes)
    classes = [folder.name for folder in _subfolders(folders["train"])]
    ignored: Counter[str] = Counter()
    parts: dict[str, _Files] = {}
    for name, folder in folders.items():
        found = {entry.name: list(_images_below(entry, ignored)) for entry in _subfolders(folder)}
        if name != "train":
            if unknown := sorted(label for label in found.keys() - set(classes) if found[label]):
                raise InputError(
                    f"{source}: {folder.name}/ has classes that {folders['train'].name}/ does not have: "
                    f"{listed(unknown)}",
                    "class folders must have the same names in every part",
                )
            if not any(found.values()):
                notes.append(f"{folder.name}/ has no class folders with images and was left out")
                continue
        paths = [path for label in classes for path in found.get(label, [])]
        indices = [index for index, label in enumerate(classes) for _ in found.get(label, [])]
        # In class order a prefix of a part would be one class; shuffled once here, any prefix is a fair sample.
        order = splits.shuffled(len(paths), 0, splits.ORDER)
        parts[name] = _Files(paths, np.array(indices, np.int64)).at(order.tolist())
    if ignored:
        kinds = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in sorted(ignored.items()))
        notes.append(f"files of other types were left out: {kinds}")
    _check_scan(root, folders["train"], classes, parts["train"], source)
    return classes, parts


def _check_scan(root: Path, folder: Path, classes: list[str], train: _Files, source: str) -> None:
    if not train.paths:
        loose = sum(entry.suffix.lower() in EXTENSIONS for entry in folder.iterdir())
        found = f"{loose} images lie in {folder} itself" if loose else f"found no {', '.join(EXTENSIONS)} file"
        raise InputError(f"{source}: expected class folders with images, but {found}", ONE_FOLDER_PER_CLASS)
    if len(classes) == 1 and (inner := _subfolders(folder / classes[0])):
        raise InputError(
            f"{source}: expected at least two classes, but found only the folder {classes[0]!r}",
            f"it holds {len(inner)} folders itself: did you mean `--data {root / classes[0]}`?",
        )
    check_classes(classes, np.bincount(train.labels, minlength=len(classes)), source)


def _part_folders(root: Path, source: str, notes: list[str]) -> dict[str, Path]:
    """The folder of each part; `root` itself is "train" when it holds class folders.

    A folder `train` is a part only if it holds folders: beside `bus` and `car` it is a class of pictures of trains.
    """
    entries = _subfolders(root)
    folders: dict[str, Path] = {}
    for part, names in PART_NAMES.items():
        matching = [entry for entry in entries if entry.name.lower() in names]
        if len(matching) > 1:
            raise InputError(f"{source}: expected one {part} folder, but found {listed([m.name for m in matching])}")
        if matching:
            folders[part] = matching[0]
    if "train" not in folders or not _subfolders(folders["train"]):
        return {"train": root}
    if others := [entry.name for entry in entries if entry not in folders.values()]:
        notes.append(f"folders beside {folders['train'].name}/ were left out: {listed(others)}")
    return folders


def _subfolders(folder: Path) -> list[Path]:
    """The visible folders in `folder`, sorted by name (`__MACOSX` is what macOS adds to zip files)."""
    return sorted(e for e in folder.iterdir() if e.is_dir() and not e.name.startswith(".") and e.name != "__MACOSX")


def _images_below(folder: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Visible image files at any depth, sorted; links are followed, each real folder once."""
    seen: set[str] = set()
    for current, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(current)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in EXTENSIONS:
                yield Path(current, name)
            else:
                ignored[suffix] += 1


def _probe(files: _Files, broken: list[Path]) -> tuple[_Files, list[tuple[int, bool]]]:
    """The files whose header can be read, and (short side px, stored grey) of each."""
    found = list(_threaded(lambda path: _or_none(images.probe, path), files.paths))
    broken += [path for path, result in zip(files.paths, found, strict=True) if result is None]
    kept = [index for index, result in enumerate(found) if result is not None]
    return files.at(kept), [result for result in found if result is not None]


def _decode(files: _Files, resolution_px: int, channels: int, broken: list[Path], tick: Callable[[], None]) -> Split:
    """All images of a part, each written by its thread to its place in one array."""
    pixels = np.empty((len(files), resolution_px, resolution_px, channels), np.uint8)

    def read(index: int) -> bool:
        image = _or_none(lambda path: images.decode(path, resolution_px, channels), files.paths[index])
        if image is not None:
            pixels[index] = image
        return image is not None

    readable = []
    for done in _threaded(read, range(len(files))):
        readable.append(done)
        tick()
    broken += [path for path, done in zip(files.paths, readable, strict=True) if not done]
    part = Split(pixels, files.labels)
    return part if all(readable) else part.at(np.flatnonzero(readable))


def _or_none(read: Callable[[Path], Result], path: Path) -> Result | None:
    try:
        return read(path)
    except MemoryError:
        raise
    except (
        Exception
    ):  # what a decoder raises for a damaged file is not a closed set: OSError, SyntaxError, struct.error
        return None


def _threaded(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """The results in order; Pillow decodes without the GIL, and blocks bound what is queued."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(items), 512):
            yield from pool.map(function, items[start : start + 512])


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tick
