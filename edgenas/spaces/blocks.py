"""The blocks that spaces are made of. Each appends its nodes to a Builder and returns its output tensor.

All take (builder, name, input, width, kernel, expand, stride, activation, squeeze_excite); a type that has no use for one of them
ignores it.
"""

from __future__ import annotations

from edgenas.network.builder import Builder

ACTIVATIONS = {"relu": "Relu", "relu6": "Clip", "hard_swish": "HardSwish"}  # as device files name them
SLOPE = (("alpha", 0.16666667),)  # a sixth, as it is read back from a file; beta is ONNX's default
# a gate's inner channels are the inner ones of its block by this, in multiples of 8 (as in MobileNetV3)
SQUEEZED_SHARE = 4


def activate(b: Builder, name: str, x: str, activation: str) -> str:
    """Raises KeyError for one that isn't in ACTIVATIONS."""
    op = ACTIVATIONS[activation]
    return b.node(name, op, (x,), b.shape(x), (("max", 6.0), ("min", 0.0)) if op == "Clip" else ())


def gated(b: Builder, name: str, x: str, squeezed: int) -> str:
    """Squeeze-excite (Hu et al., CVPR 2018) with MobileNetV3's hard sigmoid."""
    y = b.conv(f"{name}/squeeze", b.global_average_pool(f"{name}/pool", x), squeezed)
    y = b.conv(f"{name}/excite", activate(b, f"{name}/squeeze/relu", y, "relu"), b.shape(x)[1])
    y = b.node(f"{name}/sigmoid", "HardSigmoid", (y,), b.shape(y), SLOPE)
    return b.node(f"{name}/scale", "Mul", (x, y), b.shape(x))


def squeezed_channels(inner: int) -> int:
    return -(-inner // (8 * SQUEEZED_SHARE)) * 8


def plain(
    b: Builder,
    name: str,
    x: str,
    width: int,
    kernel: int,
    expand: int,
    stride: int,
    activation: str = "relu",
    squeeze_excite: bool = False,
) -> str:
    """3x3 convolution, activation."""
    return activate(b, f"{name}/relu", b.conv(f"{name}/conv", x, width, 3, stride), activation)


def residual(
    b: Builder,
    name: str,
    x: str,
    width: int,
    kernel: int,
    expand: int,
    stride: int,
    activation: str = "relu",
    squeeze_excite: bool = False,
) -> str:
    """ResNet's basic block: two 3x3 convolutions and a skip, projected by 1x1 where shapes differ."""
    y = activate(b, f"{name}/relu1", b.conv(f"{name}/conv1", x, width, 3, stride), activation)
    y = b.conv(f"{name}/conv2", y, width, 3)
    skip = x if b.shape(x) == b.shape(y) else b.conv(f"{name}/skip", x, width, 1, stride)
    return activate(b, f"{name}/relu2", b.add(f"{name}/add", y, skip), activation)


def fused(
    b: Builder,
    name: str,
    x: str,
    width: int,
    kernel: int,
    expand: int,
    stride: int,
    activation: str = "relu",
    squeeze_excite: bool = False,
) -> str:
    """EfficientNetV2's fused MBConv: 3x3 convolution to `expand` times the channels, linear 1x1 projection."""
    y = b.conv(f"{name}/expand", x, b.shape(x)[1] * expand, 3, stride)
    y = b.conv(f"{name}/project", activate(b, f"{name}/relu1", y, activation), width)
    y = b.add(f"{name}/add", y, x) if b.shape(x) == b.shape(y) else y
    return activate(b, f"{name}/relu2", y, activation)


def mbconv(
    b: Builder,
    name: str,
    x: str,
    width: int,
    kernel: int,
    expand: int,
    stride: int,
    activation: str = "relu",
    squeeze_excite: bool = False,
) -> str:
    """MobileNetV2's inverted residual: 1x1 expansion (none at ratio 1), depthwise, linear 1x1 projection; MobileNetV3's with a gate
    after the depthwise convolution."""
    inner = b.shape(x)[1] * expand
    # in a supernet these need weights of their own without an expansion: it is other tensors that they see
    name = f"{name}/direct" if expand == 1 else name
    y = x if expand == 1 else activate(b, f"{name}/relu1", b.conv(f"{name}/expand", x, inner), activation)
    y = activate(b, f"{name}/relu2", b.conv(f"{name}/depthwise", y, inner, kernel, stride, groups=inner), activation)
    y = gated(b, f"{name}/gate", y, squeezed_channels(inner)) if squeeze_excite else y
    y = b.conv(f"{name}/project", y, width)
    y = b.add(f"{name}/add", y, x) if b.shape(x) == b.shape(y) else y
    return activate(b, f"{name}/relu3", y, activation)


def separable(
    b: Builder,
    name: str,
    x: str,
    width: int,
    kernel: int,
    expand: int,
    stride: int,
    activation: str = "relu",
    squeeze_excite: bool = False,
) -> str:
    """MobileNet's depthwise separable convolution (Howard et al. 2017), as in DS-CNN: depthwise and 1x1, each with its activation."""
    y = b.conv(f"{name}/depthwise", x, b.shape(x)[1], kernel, stride, groups=b.shape(x)[1])
    y = b.conv(f"{name}/pointwise", activate(b, f"{name}/relu1", y, activation), width)
    return activate(b, f"{name}/relu2", y, activation)


BLOCKS = {"plain": plain, "residual": residual, "fused": fused, "mbconv": mbconv, "separable": separable}


def block_width(kind: str, width: int) -> int:
    """The output channels of a block of this type in a stage of `width`. Separable blocks are wide or nothing: 1x1 convolutions cost a
    ninth of 3x3 ones, and there is no expansion (DS-CNN has 64 channels from the first layer on, where ResNet-8 has 16)."""
    return 2 * width if kind == "separable" else width


def block_kernel(kind: str, kernel: int) -> int:
    """The kernel size that a block of this type uses when asked for `kernel`."""
    return kernel if kind in ("mbconv", "separable") else 3


def block_expand(kind: str, expand: int) -> int:
    """The expand ratio that a block of this type uses: a fused MBConv above 2 costs more than any other block gains."""
    return {"mbconv": expand, "fused": min(expand, 2)}.get(kind, 1)


def block_squeeze_excite(kind: str, squeeze_excite: bool) -> bool:
    """Whether a block of this type has a gate when asked for one."""
    return squeeze_excite and kind == "mbconv"
