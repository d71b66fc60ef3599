"""A Network: what a neural net computes, without weights. Typed nodes, static shapes, edges; immutable and hashable.

Operators, attributes and shapes are ONNX's (NCHW, batch first, one output a node), with BatchNorm already folded into the
convolution before it: that is how every inference runtime executes it. A node's name is also the name of the tensor it makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Shape = tuple[int, ...]
WEIGHTED = ("Conv", "Gemm")
ACTIVATIONS = ("Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid")


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. `attributes` is sorted by name; Conv has kernel_shape, strides, pads, dilations and group."""

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: Shape
    attributes: tuple[tuple[str, Any], ...] = ()

    def attribute(self, name: str) -> Any:
        for key, value in self.attributes:
            if key == name:
                return value
        raise KeyError(f"{self.op} node {self.name!r} has no attribute {name!r}")

    @property
    def is_depthwise(self) -> bool:
        return self.op == "Conv" and self.attribute("group") > 1 and self.attribute("group") == self.shape[1]


@dataclass(frozen=True)
class Network:
    """Nodes in an order in which they can run, between the tensors that come in and the names of those that go out.

    Most networks have one input and one output; `input_name` and the like are for them (and name the first of several).
    """

    inputs: tuple[tuple[str, Shape], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        known = {name for name, _ in self.inputs}
        for node in self.nodes:
            missing = [i for i in node.inputs if i not in known]
            if missing:
                raise ValueError(f"node {node.name!r} reads {missing}, which no node before it makes")
            if node.name in known:
                raise ValueError(f"two tensors are called {node.name!r}")
            known.add(node.name)
        if missing := [name for name in self.outputs if name not in known]:
            raise ValueError(f"the output {missing[0]!r} is made by no node")

    @property
    def input_name(self) -> str:
        return self.inputs[0][0]

    @property
    def input_shape(self) -> Shape:
        return self.inputs[0][1]

    @property
    def output_name(self) -> str:
        return self.outputs[0]

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[str, ...]]:
        """Tensor name -> names of the nodes that read it, in order; the network's outputs count as none."""
        found: dict[str, list[str]] = {name: [] for name in (*dict(self.inputs), *(node.name for node in self.nodes))}
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node.name)
        return {name: tuple(users) for name, users in found.items()}

    def shape_of(self, tensor: str) -> Shape:
        return self.by_name[tensor].shape if tensor in self.by_name else dict(self.inputs)[tensor]

    def weighted(self) -> Iterable[Node]:
        return (node for node in self.nodes if node.op in WEIGHTED)

    def weight_shape(self, node: Node) -> Shape:
        """Conv: (out, in / groups, kh, kw); Gemm: (out, in)."""
        in_shape = self.shape_of(node.inputs[0])
        if node.op == "Conv":
            return (node.shape[1], in_shape[1] // node.attribute("group"), *node.attribute("kernel_shape"))
        return (node.shape[1], in_shape[1])

    def sole_consumer(self, tensor: str) -> Node | None:
        """The one node that reads `tensor`, or None if none or several do or it is also an output."""
        users = self.consumers[tensor]
        return self.by_name[users[0]] if len(users) == 1 and tensor not in self.outputs else None
