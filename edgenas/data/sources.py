"""What `--data` may be, and which file reads it."""

from collections.abc import Callable
from pathlib import Path

from edgenas import user_code
from edgenas.data.dataset import Dataset
from edgenas.data.fashion_mnist import DEBIAN_DIR, load_fashion_mnist
from edgenas.data.folder import load_folder
from edgenas.data.images import RESOLUTIONS_PX
from edgenas.data.torch_dataset import load_function
from edgenas.errors import InputError

_FORMS = (
    "give a folder with one folder of images per class, `fashion-mnist` (or `fashion-mnist:FOLDER`), "
    "or `package.module:function` for a dataset of your own; without --data the bundled sample is used"
)


def load(
    spec: str | None,
    *,
    sample_dir: Path,
    seed: int = 0,
    max_resolution_px: int | None = None,
    use_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read the dataset that `spec` names.

    - None: the bundled sample of Fashion-MNIST in `sample_dir`.
    - "fashion-mnist", "fashion-mnist:FOLDER": all of it, from Debian's package or a folder of its IDX files.
    - a folder: `<class>/` folders of JPEG, PNG, BMP or WebP files, or `train/`, `val/` and `test/` with such folders.
      Classes are in sorted order. Hidden files are ignored, unreadable ones skipped and named in the warnings.
    - "package.module:function": called without arguments, it returns a torch-style dataset, or a tuple
      (train, test) or (train, validation, test) of them.

    Images of the last two kinds become square: EXIF orientation honoured, laid over white where transparent, short
    side resized with antialiasing, centre cropped. The size is the largest of 28, 32, 48, 64, 96, 128, 160, 192 and
    224 px that is not above the median short side of the training images, nor above `max_resolution_px`; it is lowered,
    with a warning, where the images would fill the memory. One channel if all training images (of a function: all images) are
    grey, else RGB.

    Splits depend on `seed` and the content alone and are stratified by class: 20 % are held out as the test part when
    the source has none, and 12.5 % of the rest (at most 5,000) as the validation part when it has none.

    `use_progress` is called with (images done, images in all) while images are decoded, from the calling thread.
    Raises InputError when the data can't be used: nothing there, fewer than two classes, fewer than 3 images of a
    class, an unknown class in `val/` or `test/`, a function that fails or returns something else.
    """
    if max_resolution_px is not None and max_resolution_px < RESOLUTIONS_PX[0]:
        raise InputError(f"expected a resolution of at least {RESOLUTIONS_PX[0]} px, but got {max_resolution_px} px")
    if spec is None:
        name = "fashion-mnist-sample"
        hint = "the installation is incomplete: install edgenas again, or give --data"
        return load_fashion_mnist(sample_dir, name=name, source="the bundled sample", seed=seed, hint=hint)
    source = f"`--data {spec}`"
    kind, _, rest = spec.partition(":")
    if kind == "fashion-mnist":
        folder = Path(rest).expanduser() if rest else DEBIAN_DIR
        return load_fashion_mnist(folder, name="fashion-mnist", source=source, seed=seed)
    path = Path(spec).expanduser()
    try:
        if spec and path.is_dir():
            return load_folder(
                path, source=source, seed=seed, max_resolution_px=max_resolution_px, progress=use_progress
            )
        is_file = spec and path.exists()
    except OSError as error:  # a folder without permission, a name that is too long
        raise InputError(f"{source}: can't be read: {error}", _FORMS) from error
    if is_file:
        raise InputError(f"{source}: expected a folder, but this is a file", f"unpack it if it is an archive; {_FORMS}")
    if user_code.names_a_function(spec):
        return load_function(spec, source=source, seed=seed, max_resolution_px=max_resolution_px, progress=use_progress)
    raise InputError(f"{source}: no such folder", _FORMS)
