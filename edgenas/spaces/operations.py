"""The operations that cells are made of, each a short list of steps, as data. Names are those of the published spaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgenas.network.builder import Builder

Kind = Literal["relu", "conv", "depthwise", "max_pool", "average_pool", "identity", "zero", "halve"]


@dataclass(frozen=True)
class Step:
    """`kernel`: its side in pixels. `strided`: of a cell that halves the resolution, this step does it. Convolutions have their
    BatchNorm folded; `halve` is an identity that becomes two offset 1x1 convolutions, joined, where the resolution halves."""

    kind: Kind
    kernel: int = 1
    dilation: int = 1
    strided: bool = True


OPERATIONS: dict[str, tuple[Step, ...]] = {
    # NAS-Bench-201 (Dong & Yang, 2020)
    "none": (Step("zero"),),
    "skip_connect": (Step("halve"),),
    "nor_conv_1x1": (Step("relu"), Step("conv", 1)),
    "nor_conv_3x3": (Step("relu"), Step("conv", 3)),
    "avg_pool_3x3": (Step("average_pool", 3),),
    # DARTS (Liu et al., 2019)
    "max_pool_3x3": (Step("max_pool", 3),),
    **{
        f"sep_conv_{k}x{k}": (
            *(Step("relu"), Step("depthwise", k), Step("conv", strided=False)),
            *(Step("relu"), Step("depthwise", k, strided=False), Step("conv", strided=False)),
        )
        for k in (3, 5)
    },
    **{
        f"dil_conv_{k}x{k}": (Step("relu"), Step("depthwise", k, dilation=2), Step("conv", strided=False))
        for k in (3, 5)
    },
    # NAS-Bench-101 (Ying et al., 2019); none of its cells halves the resolution
    "conv1x1-bn-relu": (Step("conv", 1), Step("relu")),
    "conv3x3-bn-relu": (Step("conv", 3), Step("relu")),
    "maxpool3x3": (Step("max_pool", 3),),
}


def has_weights(operation: str) -> bool:
    return any(step.kind in ("conv", "depthwise") for step in OPERATIONS[operation])


def append(b: Builder, name: str, operation: str, x: str, channels: int, stride: int = 1) -> str:
    """Appends `operation` on the tensor `x`; returns the tensor that it makes, of `channels` where it has a convolution. Raises
    KeyError for an operation that isn't in OPERATIONS."""
    return append_steps(b, name, OPERATIONS[operation], x, channels, stride)


def append_steps(b: Builder, name: str, steps: Sequence[Step], x: str, channels: int, stride: int = 1) -> str:
    for i, step in enumerate(steps):
        x = _append_step(b, f"{name}/{step.kind}{i}", step, x, channels, stride if step.strided else 1)
    return x


def _append_step(b: Builder, name: str, step: Step, x: str, channels: int, stride: int) -> str:
    if step.kind == "relu":
        return b.activation(name, x)
    if step.kind == "conv":
        return b.conv(name, x, channels, step.kernel, stride)
    if step.kind == "depthwise":
        inner = b.shape(x)[1]
        return b.conv(name, x, inner, step.kernel, stride, groups=inner, dilation=step.dilation)
    if step.kind == "max_pool":
        return b.max_pool(name, x, step.kernel, stride, step.kernel // 2)
    if step.kind == "average_pool":
        return b.average_pool(name, x, step.kernel, stride, step.kernel // 2)
    if step.kind == "zero":
        return b.zero(name, x, stride)
    if stride == 1:
        return b.identity(name, x)
    return factorized_reduce(b, name, x, channels, stride)


def factorized_reduce(b: Builder, name: str, x: str, channels: int, stride: int = 2) -> str:
    """DARTS' skip where the resolution halves: ReLU, two 1x1 convolutions of half the channels, joined."""
    y = b.activation(f"{name}/relu", x)
    halves = [
        b.conv(f"{name}/conv{i}", y, width, 1, stride) for i, width in enumerate((channels // 2, -(-channels // 2)))
    ]
    return b.concat(f"{name}/concat", *halves)
