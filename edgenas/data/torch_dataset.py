"""A dataset of the user's own: `package.module:function` gives a torch-style dataset, or several as its parts.

Torch itself is never imported here: anything with `len()` and `[index]` that gives (image, label) will do.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from edgenas import user_code
from edgenas.data import images, splits
from edgenas.data.dataset import Dataset, Split, assemble, listed
from edgenas.errors import InputError

_EXPECTED = (
    "the function takes no arguments and returns a dataset with len() and [index] that gives (image, label), or a "
    "tuple (train, test) or (train, validation, test) of them; an image is a PIL image or a uint8 or 0..1 float array "
    "(H, W, C) or (C, H, W)"
)
_PARTS = {1: ("train",), 2: ("train", "test"), 3: ("train", "validation", "test")}
_PROBES = 64


def load_function(
    spec: str,
    *,
    source: str,
    seed: int,
    max_resolution_px: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Call `spec` ("package.module:function") and read what it returns, item by item and in order.

    Class names come from the dataset's `classes`, when it has them, else they are the numbers. The items' sizes are
    judged by 64 of them, spread evenly. Modules in the working directory are found. Raises InputError for whatever
    can't be imported, called or read, with what was expected and what arrived.
    """
    with user_code.running():
        parts = _parts(user_code.called(spec, source, _EXPECTED), source)
        train = parts["train"]
        names = _class_names(train)
        probed = np.unique(np.linspace(0, len(train) - 1, _PROBES).astype(int))
        shorts = [min(_item(train, int(index), source)[0].size) for index in probed]
        total = sum(map(len, parts.values()))
        resolution_px, note = images.choose_resolution(
            shorts,
            image_count=total,
            channels=3,
            max_resolution_px=max_resolution_px,
            ram_bytes=images.physical_memory_bytes(),
        )
        report = progress or (lambda done, total: None)
        read: dict[str, Split] = {}
        for name, part in parts.items():
            found = _read(part, resolution_px, source, lambda i: report(sum(map(len, read.values())) + i, total))
            read[name] = _named_alike(found, _class_names(part), names, f"{source}: its {name} part")
    highest = max(int(part.labels.max()) for part in read.values())
    labels = names or [str(index) for index in range(highest + 1)]
    if highest >= len(labels):
        raise InputError(
            f"{source}: expected labels in 0..{len(labels) - 1} for its {len(labels)} classes, but got {highest}",
            "labels are indices into the dataset's `classes`",
        )
    if all(images.all_grey(part.images) for part in read.values()):
        read = {name: Split(part.images[..., :1].copy(), part.labels) for name, part in read.items()}
    notes = [note] if note else []
    return assemble(
        spec,
        labels,
        read["train"],
        validation=read.get("validation"),
        test=read.get("test"),
        seed=seed,
        source=source,
        warnings=notes,
    )


def _parts(returned: Any, source: str) -> dict[str, Any]:
    """By name, without those that are None. Raises InputError for what isn't a dataset."""
    given = returned if isinstance(returned, tuple) and len(returned) in _PARTS else (returned,)
    parts = {
        name: part for name, part in zip(_PARTS[len(given)], given, strict=True) if part is not None or name == "train"
    }
    for part in parts.values():
        try:
            size = len(part)
        except Exception as error:  # a torch Dataset without __len__ raises TypeError or NotImplementedError
            raise InputError(
                f"{source}: expected a dataset with len() and [index], but got {user_code.kind(part)}", _EXPECTED
            ) from error
        if size == 0 or not hasattr(part, "__getitem__"):
            found = "an empty one" if size == 0 else f"{user_code.kind(part)} without [index]"
            raise InputError(f"{source}: expected a dataset of images, but got {found}", _EXPECTED)
    return parts


def _class_names(dataset: Any) -> list[str]:
    for _ in range(8):  # torch's Subset keeps the dataset that it is part of in `.dataset`
        if isinstance(names := getattr(dataset, "classes", None), (list, tuple)):
            return [str(name) for name in names]
        dataset = getattr(dataset, "dataset", None)
    return []


def _named_alike(part: Split, own: list[str], names: list[str], what: str) -> Split:
    """With labels that mean what they mean in the training part, whose classes are `names`: a folder that lacks one counts others."""
    if not own or not names or own == names:
        return part
    if unknown := [name for name in own if name not in names]:
        raise InputError(
            f"{what} has the class {unknown[0]!r}, which the training part doesn't have",
            f"the training part's classes are {listed(names)}",
        )
    highest = int(part.labels.max())
    if highest >= len(own):
        raise InputError(f"{what} has the label {highest}, but {len(own)} classes", _EXPECTED)
    return Split(part.images, np.array([names.index(name) for name in own])[part.labels])


def _read(dataset: Any, resolution_px: int, source: str, tick: Callable[[int], None]) -> Split:
    """All items, in a shuffled order, so that any prefix is a fair sample even if they come sorted by class."""
    count = len(dataset)
    pixels = np.empty((count, resolution_px, resolution_px, 3), np.uint8)
    labels = np.empty(count, np.int64)
    for index, place in enumerate(splits.shuffled(count, 0, splits.ORDER)):
        image, labels[place] = _item(dataset, index, source)
        pixels[place] = images.square(image, resolution_px, 3)
        tick(index + 1)
    return Split(pixels, labels)


def _item(dataset: Any, index: int, source: str) -> tuple[Any, int]:
    """Item `index` as a Pillow image and its label."""
    try:
        item = dataset[index]
    except Exception as error:
        raise InputError(f"{source}: item {index} can't be read: {user_code.said(error)}", _EXPECTED) from error
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise InputError(
            f"{source}: expected (image, label) as item {index}, but got {user_code.kind(item)}", _EXPECTED
        )
    where = f"{source}: item {index}"
    return _to_pil(item[0], where), _to_label(item[1], where)


def _to_label(label: Any, where: str) -> int:
    value = _to_array(label)
    if value is None or value.size != 1 or not np.issubdtype(value.dtype, np.integer):
        raise InputError(f"{where}: expected an integer as the label, but got {user_code.kind(label)}", _EXPECTED)
    if (number := int(value.reshape(()))) < 0:
        raise InputError(f"{where}: expected a label from 0 on, but got {number}", _EXPECTED)
    return number


def _to_pil(image: Any, where: str) -> Any:
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    values = _to_array(image)
    if values is None or values.dtype == object or values.ndim not in (2, 3):
        raise InputError(
            f"{where}: expected a PIL image or an array (H, W, C), but got {user_code.kind(image)}", _EXPECTED
        )
    values = _to_uint8(_channels_last(values, hasattr(image, "detach"), where), where)
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def _to_array(value: Any) -> np.ndarray | None:
    """As a NumPy array; a torch tensor is known by its `detach`."""
    try:
        return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except Exception:
        return None


def _channels_last(values: np.ndarray, is_tensor: bool, where: str) -> np.ndarray:
    """(H, W), (H, W, C) or (C, H, W) as (H, W, C); where both could be, a tensor is (C, H, W) and an array isn't."""
    if values.ndim == 2:
        return values[..., None]
    first, last = values.shape[0] in (1, 3), values.shape[2] in (1, 3)
    if not (first or last):
        raise InputError(
            f"{where}: expected 1 or 3 channels, first or last, but the shape is {values.shape}", _EXPECTED
        )
    channels_first = first and (is_tensor or not last)
    return np.ascontiguousarray(np.moveaxis(values, 0, 2) if channels_first else values)


def _to_uint8(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype == np.uint8 and values.size:
        return values
    if not np.issubdtype(values.dtype, np.floating) or not values.size:
        raise InputError(
            f"{where}: expected uint8 or floats, but got {values.dtype} of shape {values.shape}", _EXPECTED
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN fails too
        raise InputError(
            f"{where}: expected floats in 0..1, but they range from {low:.3g} to {high:.3g}",
            "return images before normalisation: edgenas normalises them itself",
        )
    scaled: np.ndarray = np.rint(values.clip(0, 1) * 255)
    return scaled.astype(np.uint8)
