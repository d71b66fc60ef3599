"""From a picture of any size and mode to a square uint8 array; and which size that square should have.

Every picture is turned upright by its EXIF orientation, laid over white where it is transparent, and its centre square
(the short side) is resampled to the wanted size with Pillow's bilinear filter, which widens with the scale and so
antialiases. This is the same as resizing the short side and cropping the centre, without resampling what is cropped
away. Pillow is imported inside the functions.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

RESOLUTIONS_PX = (28, 32, 48, 64, 96, 128, 160, 192, 224)


def choose_resolution(
    short_sides: Sequence[int], *, image_count: int, channels: int, max_resolution_px: int | None, ram_bytes: int | None
) -> tuple[int, str]:
    """The square size for images with these short sides (px), and a warning or "".

    The largest of RESOLUTIONS_PX that is not above the median short side and not above `max_resolution_px`; at least
    28, to which smaller images are enlarged. It is lowered, with the warning, until all images fit into a quarter of
    `ram_bytes` (splitting needs them twice for a moment, and training needs room).
    """
    ceiling = min(float(np.median(short_sides)), max_resolution_px or RESOLUTIONS_PX[-1])
    wanted = max((px for px in RESOLUTIONS_PX if px <= ceiling), default=RESOLUTIONS_PX[0])
    room = (ram_bytes or 2**62) // 4 // (max(image_count, 1) * channels)
    fitting = max((px for px in RESOLUTIONS_PX if px <= wanted and px * px <= room), default=RESOLUTIONS_PX[0])
    if fitting == wanted:
        return wanted, ""
    return fitting, f"{image_count} images at {wanted} px would fill this machine's memory: read at {fitting} px"


def physical_memory_bytes() -> int | None:
    """What the machine has, or None where the system does not say (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def probe(path: Path) -> tuple[int, bool]:
    """The short side in px and whether the file stores grey, from its header alone; raises as Pillow does."""
    from PIL import Image

    with Image.open(path) as image:
        return min(image.size), is_grey(image)


def decode(path: Path, resolution_px: int, channels: int) -> np.ndarray:
    """The file as uint8 (resolution_px, resolution_px, channels); raises as Pillow does when it is damaged."""
    from PIL import Image

    with Image.open(path) as image:
        # JPEG can come out of the decoder at 1/2, 1/4 or 1/8 size for far less time; twice the wanted size is kept,
        # so that the antialiasing below still decides what the result looks like.
        image.draft(None, (2 * resolution_px, 2 * resolution_px))
        return square(image, resolution_px, channels)


def square(image: "Image", resolution_px: int, channels: int) -> np.ndarray:
    """A Pillow image as uint8 (resolution_px, resolution_px, channels): upright, opaque, centre square, resampled."""
    from PIL import Image, ImageOps

    flat = _opaque(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
    width, height = flat.size
    if flat.size != (resolution_px, resolution_px):
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        flat = flat.resize((resolution_px, resolution_px), Image.Resampling.BILINEAR, box=box)
    return np.asarray(flat, np.uint8).reshape(resolution_px, resolution_px, channels)


def is_grey(image: "Image") -> bool:
    """Whether the image's mode has no colour."""
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")


def all_grey(images: np.ndarray) -> bool:
    """Whether uint8 (N, H, W, 3) images are grey in every pixel; stops at the first that isn't."""
    for start in range(0, len(images), 64):
        block = images[start : start + 64]
        if not ((block[..., 0] == block[..., 1]).all() and (block[..., 1] == block[..., 2]).all()):
            return False
    return True


def _opaque(image: "Image", mode: str) -> "Image":
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert(mode)
    if not image.has_transparency_data:
        return image.convert(mode)
    layers = image.convert("RGBA")
    white = Image.new("RGBA", layers.size, "white")
    return Image.alpha_composite(white, layers).convert(mode)
