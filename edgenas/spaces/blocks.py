"""The blocks that spaces are made of. Each appends its nodes to a Builder and returns its output tensor.

All take (builder, name, input, width, kernel, expand, stride); a type that has no use for one of them ignores it.
"""

from __future__ import annotations

from edgenas.network.builder import Builder


def plain(b: Builder, name: str, x: str, width: int, kernel: int, expand: int, stride: int) -> str:
    """3x3 convolution, ReLU."""
    return b.activation(f"{name}/relu", b.conv(f"{name}/conv", x, width, 3, stride))


def residual(b: Builder, name: str, x: str, width: int, kernel: int, expand: int, stride: int) -> str:
    """ResNet's basic block: two 3x3 convolutions and a skip, projected by 1x1 where shapes differ."""
    y = b.activation(f"{name}/relu1", b.conv(f"{name}/conv1", x, width, 3, stride))
    y = b.conv(f"{name}/conv2", y, width, 3)
    skip = x if b.shape(x) == b.shape(y) else b.conv(f"{name}/skip", x, width, 1, stride)
    return b.activation(f"{name}/relu2", b.add(f"{name}/add", y, skip))


def fused(b: Builder, name: str, x: str, width: int, kernel: int, expand: int, stride: int) -> str:
    """EfficientNetV2's fused MBConv: 3x3 convolution to `expand` times the channels, linear 1x1 projection."""
    y = b.conv(f"{name}/expand", x, b.shape(x)[1] * expand, 3, stride)
    y = b.conv(f"{name}/project", b.activation(f"{name}/relu1", y), width)
    y = b.add(f"{name}/add", y, x) if b.shape(x) == b.shape(y) else y
    return b.activation(f"{name}/relu2", y)


def mbconv(b: Builder, name: str, x: str, width: int, kernel: int, expand: int, stride: int) -> str:
    """MobileNetV2's inverted residual: 1x1 expansion (none at ratio 1), depthwise, linear 1x1 projection."""
    inner = b.shape(x)[1] * expand
    y = x if expand == 1 else b.activation(f"{name}/relu1", b.conv(f"{name}/expand", x, inner))
    y = b.activation(f"{name}/relu2", b.conv(f"{name}/depthwise", y, inner, kernel, stride, groups=inner))
    y = b.conv(f"{name}/project", y, width)
    y = b.add(f"{name}/add", y, x) if b.shape(x) == b.shape(y) else y
    return b.activation(f"{name}/relu3", y)


BLOCKS = {"plain": plain, "residual": residual, "fused": fused, "mbconv": mbconv}


def block_kernel(kind: str, kernel: int) -> int:
    """The kernel size that a block of this type uses when asked for `kernel`."""
    return kernel if kind == "mbconv" else 3


def block_expand(kind: str, expand: int) -> int:
    """The expand ratio that a block of this type uses: a fused MBConv above 2 costs more than any other block gains."""
    return {"mbconv": expand, "fused": min(expand, 2)}.get(kind, 1)
