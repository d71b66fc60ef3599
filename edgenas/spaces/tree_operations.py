"""What a tree's leaves are, and how its stage is entered. Each appends its nodes to a Builder and returns the tensor that it makes."""

from __future__ import annotations

from collections.abc import Callable

from edgenas.network.builder import Builder
from edgenas.spaces.blocks import mbconv
from edgenas.spaces.tree_grammar import IDENTITY

Append = Callable[[Builder, str, str, int, int], str]
"""(builder, name, input, width, stride) -> the tensor that it makes, of `width` channels"""


def conv(kernel: int) -> Append:
    def append(b: Builder, name: str, x: str, width: int, stride: int) -> str:
        return b.activation(f"{name}/relu", b.conv(f"{name}/conv", x, width, kernel, stride))

    return append


def _separable(kernel: int) -> Append:
    """Depthwise, then 1x1, each with a ReLU (MobileNet, Howard et al. 2017)."""

    def append(b: Builder, name: str, x: str, width: int, stride: int) -> str:
        inner = b.shape(x)[1]
        y = b.activation(f"{name}/relu1", b.conv(f"{name}/depthwise", x, inner, kernel, stride, groups=inner))
        return b.activation(f"{name}/relu2", b.conv(f"{name}/pointwise", y, width))

    return append


def _mbconv(kernel: int, expand: int) -> Append:
    return lambda b, name, x, width, stride: mbconv(b, name, x, width, kernel, expand, stride)


def _pool(pool: Callable[[Builder, str, str, int, int, int], str]) -> Append:
    def append(b: Builder, name: str, x: str, width: int, stride: int) -> str:
        return _identity(b, name, pool(b, f"{name}/pool", x, 3, stride, 1), width, stride)

    return append


def _identity(b: Builder, name: str, x: str, width: int, stride: int) -> str:
    return x if b.shape(x)[1] == width else conv(1)(b, name, x, width, 1)


def _pool_and_project(b: Builder, name: str, x: str, width: int, stride: int) -> str:
    return conv(1)(b, name, b.max_pool(f"{name}/pool", x, 3, 2, 1) if stride > 1 else x, width, 1)


OPERATIONS: dict[str, Append] = {
    "maxpool": _pool(Builder.max_pool),
    "avgpool": _pool(Builder.average_pool),
    "conv1": conv(1),
    "conv3": conv(3),
    "conv5": conv(5),
    "sep3": _separable(3),
    "sep5": _separable(5),
    "mbconv3": _mbconv(3, expand=2),
    "mbconv5": _mbconv(5, expand=4),
}
ENTRIES: dict[str, Append] = {"conv3": conv(3), "sep3": _separable(3), "pool": _pool_and_project}
"""All end in a convolution and its ReLU, so that what follows finds the same layout whatever came before."""


def leaf(label: str) -> Append:
    """Of an operation or the identity; whatever channels come, `width` go."""
    return _identity if label == IDENTITY else OPERATIONS[label]


def skip(b: Builder, name: str, x: str, width: int, stride: int) -> str:
    """What a residual adds: the input, projected where the channels differ."""
    return x if b.shape(x)[1] == width else b.conv(f"{name}/skip", x, width)
