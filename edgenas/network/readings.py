"""What is left of a Network when it runs, which is a fact about the device's runtime: three readings of one graph.

- `as_written`: all of it. Eager runtimes execute branches whose results nobody reads.
- `reachable`: what the outputs depend on. Zeros are dropped where they are added; operations that are fed zeros still run.
- `live`: that, and what is computed from zeros alone is zero, so it doesn't run.

`Zero` nodes (the `none` of cell spaces) are constants to the latter two and read nothing. A bias would make a convolution of zeros
something else than zero; cell spaces mean the branch to be gone, and compilers find it gone because they fold what is constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

from edgenas.network.graph import Network, Node

Reading = Literal["live", "reachable", "as_written"]
READINGS: tuple[Reading, ...] = get_args(Reading)
ZERO = "Zero"
ZERO_FROM_ZERO = frozenset(
    ("Conv", "Relu", "Clip", "HardSwish", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Identity", "Mul")
)


def as_written(network: Network) -> Network:
    return network


def reachable(network: Network) -> Network:
    """Without what no output depends on; an Add of zeros is its other operand."""
    return _without_zeros(network, frozenset())


def live(network: Network) -> Network:
    """Without what no output depends on and what is computed from zeros alone. Of a network whose input never reaches the output
    there is left what a constant costs."""
    return _without_zeros(network, ZERO_FROM_ZERO)


READ: dict[Reading, Callable[[Network], Network]] = {"live": live, "reachable": reachable, "as_written": as_written}


def read(network: Network, reading: Reading) -> Network:
    return READ[reading](network)


def depends_on_input(network: Network) -> bool:
    """Whether an output has anything to do with an input; a cell whose branches are all dead leaves only constants."""
    names = dict(network.inputs)
    left = live(network)
    return any(name in names for node in left.nodes for name in node.inputs) or any(x in names for x in left.outputs)


def zero_tensors(network: Network) -> frozenset[str]:
    """The tensors that hold nothing but zeros, whatever the input."""
    zeros: set[str] = set()
    for node in network.nodes:
        if node.op == ZERO or _is_zero(node, zeros, ZERO_FROM_ZERO):
            zeros.add(node.name)
    return frozenset(zeros)


def _is_zero(node: Node, zeros: set[str], passing: frozenset[str]) -> bool:
    if not node.inputs:
        return False
    if node.op in ("Add", "Sum", "Concat"):
        return all(name in zeros for name in node.inputs) and "constants" not in dict(node.attributes)
    return node.op in passing and node.inputs[0] in zeros


def _without_zeros(network: Network, passing: frozenset[str]) -> Network:
    """`passing`: the operations that turn zeros into a zero that is known beforehand."""
    if all(node.op != ZERO for node in network.nodes):
        return _needed(network)
    same: dict[str, str] = {}  # tensor -> the tensor that it is equal to
    zeros: set[str] = set()
    nodes = []
    for node in network.nodes:
        inputs = tuple(same.get(name, name) for name in node.inputs)
        node = node if inputs == node.inputs else replace(node, inputs=inputs)
        if node.op == ZERO or _is_zero(node, zeros, passing):
            zeros.add(node.name)
            node = Node(node.name, ZERO, (), node.shape)
        elif node.op in ("Add", "Sum") and zeros.intersection(inputs) and "constants" not in dict(node.attributes):
            kept = tuple(name for name in inputs if name not in zeros)
            if len(kept) == 1:
                same[node.name] = kept[0]
                continue
            node = replace(node, inputs=kept)
        nodes.append(node)
    outputs = tuple(same.get(name, name) for name in network.outputs)
    return _needed(Network(network.inputs, tuple(nodes), outputs))


def _needed(network: Network) -> Network:
    needed = set(network.outputs)
    kept = []
    for node in reversed(network.nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(node.inputs)
    if len(kept) == len(network.nodes):
        return network
    return Network(network.inputs, tuple(reversed(kept)), network.outputs)
