"""Which channels of a Network belong together, and the same network with other widths. Arithmetic for pruning and profiling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from edgenas.network.graph import ACTIVATIONS, Network, Node, Shape

PASS_THROUGH = (*ACTIVATIONS, "Swish", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")
JOINS = ("Add", "Mul")


def channel_groups(network: Network) -> tuple[tuple[str, ...], ...]:
    """Names of the convolutions whose output channels must be kept or dropped together, group by group.

    An Add or a Mul ties what it joins, a depthwise convolution ties itself to what it reads. The input's channels and what is added
    to them can't change and are in no group, nor are channels that reach the output, that are joined with others or with constants,
    that a grouped convolution reads or makes, or that any other operation reads.
    """
    root = {name: name for name, _ in network.inputs}
    fixed = {*dict(network.inputs), *network.outputs}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for node in network.nodes:
        follows = _follows(network, node)
        root[node.name] = find(node.inputs[0]) if follows else node.name
        if follows and node.op in JOINS:
            one, other = find(node.inputs[0]), find(node.inputs[1])
            root[max(one, other, key=_order(network))] = min(one, other, key=_order(network))
        if not follows and not (node.op == "Gemm" or (node.op == "Conv" and node.attribute("group") == 1)):
            fixed.update((node.name, *node.inputs))
    fixed = {find(name) for name in fixed}
    groups: dict[str, list[str]] = {}
    for node in network.nodes:
        if node.op == "Conv" and not node.is_depthwise and find(node.name) not in fixed:
            groups.setdefault(find(node.name), []).append(node.name)
    return tuple(tuple(names) for names in groups.values())


def _follows(network: Network, node: Node) -> bool:
    """Whether the channels that the node makes are those that it reads, one for one."""
    channels = {network.shape_of(name)[1] for name in node.inputs if len(network.shape_of(name)) > 1}
    if node.op in JOINS:
        return len(node.inputs) == 2 and len(channels) == 1
    return node.op in PASS_THROUGH or (node.is_depthwise and channels == {node.shape[1]})


def with_widths(network: Network, widths: Mapping[str, int]) -> Network:
    """The network with these convolutions at other output widths, and everything that follows from it."""
    shapes: dict[str, Shape] = dict(network.inputs)
    nodes = []
    for node in network.nodes:
        node = _resized(node, [shapes[name] for name in node.inputs], widths.get(node.name))
        shapes[node.name] = node.shape
        nodes.append(node)
    return Network(network.inputs, tuple(nodes), network.outputs)


def _resized(node: Node, inputs: list[Shape], width: int | None) -> Node:
    first = inputs[0]
    if node.is_depthwise:
        attributes = tuple((k, first[1] if k == "group" else v) for k, v in node.attributes)
        return replace(node, shape=(1, first[1], *node.shape[2:]), attributes=attributes)
    if node.op == "Conv":
        return replace(node, shape=(1, width or node.shape[1], *node.shape[2:]))
    if node.op == "Gemm":
        return node
    if node.op == "Concat":
        return replace(node, shape=(1, sum(shape[1] for shape in inputs), *node.shape[2:]))
    if node.op == "Flatten":
        return replace(node, shape=(1, prod(first[1:])))
    if node.op == "Add" and inputs[0] != inputs[1]:
        raise ValueError(
            f"{node.name!r} would add {inputs[0]} and {inputs[1]}: give one width to a whole channel group"
        )
    return replace(node, shape=(1, max(shape[1] for shape in inputs), *node.shape[2:]))  # a product may broadcast


def _order(network: Network):  # type: ignore[no-untyped-def]
    position = dict.fromkeys(dict(network.inputs), -1) | {node.name: i for i, node in enumerate(network.nodes)}
    return position.__getitem__
