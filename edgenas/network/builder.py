"""Writing a Network down node by node, with the shapes worked out on the way (ONNX's shape rules, floor rounding)."""

from __future__ import annotations

from math import prod
from typing import Any

from edgenas.network.graph import Network, Node, Shape

INPUT = "input"


class Builder:
    """Each method appends one node and returns the name of the tensor that it makes."""

    def __init__(self, input_shape: Shape) -> None:
        self.input_shape = input_shape
        self._nodes: list[Node] = []
        self._shapes: dict[str, Shape] = {INPUT: input_shape}

    def shape(self, tensor: str) -> Shape:
        return self._shapes[tensor]

    def _add(self, node: Node) -> str:
        self._nodes.append(node)
        self._shapes[node.name] = node.shape
        return node.name

    def conv(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        pad: int | None = None,
    ) -> str:
        """Unless `pad` is given, `same`-style symmetric padding of dilation * (kernel // 2): the output side is ceil(side / stride)."""
        _, _, height, width = self._shapes[x]
        pad = dilation * (kernel // 2) if pad is None else pad
        reach = dilation * (kernel - 1) + 1
        sides = tuple((side + 2 * pad - reach) // stride + 1 for side in (height, width))
        attributes = (
            ("dilations", (dilation, dilation)),
            ("group", groups),
            ("kernel_shape", (kernel, kernel)),
            ("pads", (pad,) * 4),
            ("strides", (stride, stride)),
        )
        return self._add(Node(name, "Conv", (x,), (1, channels, *sides), attributes))

    def activation(self, name: str, x: str, op: str = "Relu") -> str:
        return self._add(Node(name, op, (x,), self._shapes[x]))

    def add(self, name: str, left: str, right: str) -> str:
        if self._shapes[left] != self._shapes[right]:
            raise ValueError(f"{name}: {self._shapes[left]} and {self._shapes[right]} can't be added")
        return self._add(Node(name, "Add", (left, right), self._shapes[left]))

    def max_pool(self, name: str, x: str, kernel: int, stride: int, pad: int = 0) -> str:
        return self._pool(name, "MaxPool", x, kernel, stride, pad)

    def average_pool(self, name: str, x: str, kernel: int, stride: int, pad: int = 0) -> str:
        """What is padded doesn't count in the mean."""
        return self._pool(name, "AveragePool", x, kernel, stride, pad)

    def _pool(self, name: str, op: str, x: str, kernel: int, stride: int, pad: int) -> str:
        _, channels, height, width = self._shapes[x]
        sides = tuple((side + 2 * pad - kernel) // stride + 1 for side in (height, width))
        attributes = (("kernel_shape", (kernel, kernel)), ("pads", (pad,) * 4), ("strides", (stride, stride)))
        return self._add(Node(name, op, (x,), (1, channels, *sides), attributes))

    def identity(self, name: str, x: str) -> str:
        return self._add(Node(name, "Identity", (x,), self._shapes[x]))

    def zero(self, name: str, x: str, stride: int = 1) -> str:
        """Zeros in the shape of `x`, each side of which is divided by `stride` (rounded up): what a cell space calls `none`."""
        batch, channels, *sides = self._shapes[x]
        return self._add(Node(name, "Zero", (x,), (batch, channels, *(-(-side // stride) for side in sides))))

    def concat(self, name: str, *tensors: str) -> str:
        """Along the channels."""
        first, *others = (self._shapes[x] for x in tensors)
        if any(other[2:] != first[2:] for other in others):
            raise ValueError(f"{name}: {[self._shapes[x] for x in tensors]} can't be joined along the channels")
        channels = sum(self._shapes[x][1] for x in tensors)
        return self._add(Node(name, "Concat", tensors, (1, channels, *first[2:]), (("axis", 1),)))

    def global_average_pool(self, name: str, x: str) -> str:
        return self._add(Node(name, "GlobalAveragePool", (x,), (1, self._shapes[x][1], 1, 1)))

    def flatten(self, name: str, x: str) -> str:
        return self._add(Node(name, "Flatten", (x,), (1, prod(self._shapes[x][1:]))))

    def linear(self, name: str, x: str, features: int) -> str:
        return self._add(Node(name, "Gemm", (x,), (1, features)))

    def first_channels(self, name: str, x: str, channels: int) -> str:
        """The tensor cut to its first `channels`; itself where it has no more."""
        batch, have, *sides = self._shapes[x]
        if have <= channels:
            return x
        return self._add(Node(name, "Slice", (x,), (batch, channels, *sides), (("axes", (1,)),)))

    def node(
        self, name: str, op: str, inputs: tuple[str, ...], shape: Shape, attributes: tuple[tuple[str, Any], ...] = ()
    ) -> str:
        """Any operation, with its output's shape."""
        return self._add(Node(name, op, inputs, shape, attributes))

    def finish(self, *outputs: str) -> Network:
        return Network(((INPUT, self.input_shape),), tuple(self._nodes), outputs)
