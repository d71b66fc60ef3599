"""Which channels of a Network belong together, and the same network with other widths. Arithmetic for pruning and profiling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from edgenas.network.graph import ACTIVATIONS, Network, Node, Shape

PASS_THROUGH = (*ACTIVATIONS, "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")


def channel_groups(network: Network) -> tuple[tuple[str, ...], ...]:
    """Names of the convolutions whose output channels must be kept or dropped together, group by group.

    An Add ties what it adds, a depthwise convolution ties itself to what it reads. The input's channels and what is added to
    them can't change and are in no group, nor are channels that reach the output.
    """
    root = {name: name for name, _ in network.inputs}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for node in network.nodes:
        tied = node.is_depthwise or node.op in PASS_THROUGH or node.op == "Add"
        root[node.name] = find(node.inputs[0]) if tied else node.name
        if node.op == "Add":
            one, other = find(node.inputs[0]), find(node.inputs[1])
            root[max(one, other, key=_order(network))] = min(one, other, key=_order(network))
    fixed = {*dict(network.inputs), *(find(name) for name in network.outputs)}
    groups: dict[str, list[str]] = {}
    for node in network.nodes:
        if node.op == "Conv" and not node.is_depthwise and find(node.name) not in fixed:
            groups.setdefault(find(node.name), []).append(node.name)
    return tuple(tuple(names) for names in groups.values())


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
    if node.op == "Flatten":
        return replace(node, shape=(1, prod(first[1:])))
    if node.op == "Add" and inputs[0] != inputs[1]:
        raise ValueError(
            f"{node.name!r} would add {inputs[0]} and {inputs[1]}: give one width to a whole channel group"
        )
    return replace(node, shape=(1, first[1], *node.shape[2:]))


def _order(network: Network):  # type: ignore[no-untyped-def]
    position = dict.fromkeys(dict(network.inputs), -1) | {node.name: i for i, node in enumerate(network.nodes)}
    return position.__getitem__
