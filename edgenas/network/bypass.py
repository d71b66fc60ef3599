"""A Network without some of its nodes: what read them reads their first input instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgenas.network.graph import Network, Node
from edgenas.network.readings import reachable


def bypassed(network: Network, is_passed: Callable[[Node], bool]) -> Network:
    """The network as if each node that `is_passed` were an identity in its first input; what then feeds nothing is gone. Such a
    node has to leave the shape as it is."""
    same: dict[str, str] = {}
    nodes = []
    for node in network.nodes:
        inputs = tuple(same.get(name, name) for name in node.inputs)
        if inputs and is_passed(node):
            same[node.name] = inputs[0]
        else:
            nodes.append(node if inputs == node.inputs else replace(node, inputs=inputs))
    return reachable(Network(network.inputs, tuple(nodes), tuple(same.get(name, name) for name in network.outputs)))
