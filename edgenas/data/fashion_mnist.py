"""Fashion-MNIST from a folder of IDX files: the bundled sample, Debian's package, or a download of one's own.

IDX is the format of http://yann.lecun.com/exdb/mnist/: two zero bytes, a type (8 = unsigned byte), the number of
dimensions, each dimension as a big-endian uint32, then the values. The dataset: https://arxiv.org/abs/1708.07747.
"""

import gzip
import lzma
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgenas.data.dataset import Dataset, Split, assemble
from edgenas.errors import InputError

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SUFFIXES = (".gz", ".xz", "")

_HOW_TO_GET_IT = (
    "on Debian or Ubuntu: apt-get install dataset-fashion-mnist; elsewhere put the four IDX files of "
    "https://github.com/zalandoresearch/fashion-mnist into a folder and give `--data fashion-mnist:FOLDER`"
)


def load_fashion_mnist(folder: Path, *, name: str, source: str, seed: int, hint: str = _HOW_TO_GET_IT) -> Dataset:
    """The training and test images below `folder`: 28 px, one channel, ten classes.

    Raises InputError when a file is absent (with where it was looked for, and `hint`), damaged, or does not match the
    others.
    """
    train, test = read_parts(folder, source=source, hint=hint)
    return assemble(name, LABELS, train, test=test, seed=seed, source=source)


def read_parts(folder: Path, *, source: str, hint: str = _HOW_TO_GET_IT) -> tuple[Split, Split]:
    """The train and the test part in `folder` as they stand there, in file order."""
    paths = [_find(folder, name, source, hint) for name in FILES]
    with ThreadPoolExecutor(len(paths)) as pool:  # gzip and xz release the GIL
        train, train_labels, test, test_labels = pool.map(read_idx, paths)
    return _part(train, train_labels, folder, source), _part(test, test_labels, folder, source)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an IDX file, plain or compressed as .gz or .xz; raises InputError when it is damaged."""
    unpack = {".gz": gzip.decompress, ".xz": lzma.decompress}.get(path.suffix, bytes)
    try:
        content = bytearray(unpack(path.read_bytes()))
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} can't be read: {error}", "it is damaged or incomplete: fetch it again") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise InputError(f"{path}: expected an IDX file of unsigned bytes, but it starts with {bytes(content[:4])!r}")
    rank = content[3]
    shape = struct.unpack_from(f">{rank}I", content, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(shape, dtype=np.int64):
        raise InputError(f"{path}: its header says {shape}, but {values.size} values follow", "fetch it again")
    return values.reshape(shape)


def write_idx(values: np.ndarray) -> bytes:
    """The IDX form of a uint8 array, uncompressed."""
    return b"\x00\x00\x08" + struct.pack(f">B{values.ndim}I", values.ndim, *values.shape) + values.tobytes()


def _find(folder: Path, name: str, source: str, hint: str) -> Path:
    for suffix in SUFFIXES:
        if (path := folder / (name + suffix)).is_file():
            return path
    raise InputError(f"{source}: looked for {name}.gz (or .xz, or unpacked) in {folder}, but it isn't there", hint)


def _part(images: np.ndarray, labels: np.ndarray, folder: Path, source: str) -> Split:
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise InputError(
            f"{source}: expected (N, 28, 28) images and (N,) labels, but {folder} holds "
            f"{images.shape} and {labels.shape}"
        )
    if labels.size and labels.max() >= len(LABELS):
        raise InputError(f"{source}: expected labels in 0..{len(LABELS) - 1}, but {folder} has {labels.max()}")
    return Split(images[..., None], labels.astype(np.int64))
