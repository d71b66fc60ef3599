"""What a Network costs on paper: MACs, parameters, bytes moved, and its exact peak of activation memory."""

from __future__ import annotations

from math import prod

from edgenas.network.fuse import kernel_of
from edgenas.network.graph import Network, Node


def node_macs(network: Network, node: Node) -> int:
    """Multiply-accumulates, as Kernel counts them (FLOPs = 2 x MACs)."""
    return kernel_of(network, node, "fp32").macs


def macs(network: Network) -> int:
    return sum(node_macs(network, node) for node in network.nodes)


def params(network: Network) -> int:
    """Weights and biases, with BatchNorm folded."""
    return sum(kernel_of(network, node, "fp32").params for node in network.nodes)


def activation_peak_bytes(network: Network, bytes_per_value: int) -> int:
    """The most bytes of activations alive at once when nodes run in order and a tensor dies after its last reader.

    Activation functions run in place and Flatten is a view, as in every inference runtime.
    """
    home = {name: name for name, _ in network.inputs}  # tensor -> the tensor whose buffer it lives in
    for node in network.nodes:
        in_place = node.op in ("Relu", "Clip", "HardSwish", "Flatten") and network.consumers[node.inputs[0]] == (
            node.name,
        )
        home[node.name] = home[node.inputs[0]] if in_place else node.name
    last_use = {home[name]: len(network.nodes) for name in network.outputs}
    for step, node in enumerate(network.nodes):
        for name in node.inputs:
            last_use[home[name]] = max(step, last_use.get(home[name], 0))
    alive = {name: prod(shape) for name, shape in network.inputs}
    peak = sum(alive.values())
    for step, node in enumerate(network.nodes):
        alive.setdefault(home[node.name], prod(node.shape))
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last_use.get(name, -1) > step}
    return peak * bytes_per_value
