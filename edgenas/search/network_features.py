"""What of a network says how accurate it may become, from the Network alone, so that it holds for every space.

All is read off the live graph: what never reaches the output, or is always zero, does nothing for the accuracy, so networks that
differ in that alone have the same features. Operations are convolutions, linear layers, poolings and whatever else is neither an
activation, a view, a sum nor an Identity; those are where operations hang together. In five groups:

- `size`: logarithms of MACs, parameters, the values that operations compute and the input's side;
- `shape`: convolutions on the longest and on the shortest path (`depth`, `shortest`), the logarithm of how many paths there are
  (`paths`), tensors that are summed, Identities, activations;
- `operation`: how many there are of each family (an operator with its window, stride and kind of grouping);
- `order`: how often one family reads what another made, be it through sums, activations and Identities;
- `level`: per halving of the input's side, operations of each family, the mean logarithm of the convolutions' channels, and that of
  their MACs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import log, log2, prod
from typing import Any

from edgenas.latency.graph_features import SUMS, VIEWS, family
from edgenas.network.fuse import kernel_of
from edgenas.network.graph import ACTIVATIONS, WEIGHTED, Network, Node
from edgenas.network.readings import ZERO, live

GROUPS = ("size", "shape", "operation", "order", "level")
BETWEEN = frozenset((*ACTIVATIONS, *VIEWS, *SUMS, "Identity", "Concat", ZERO))

Features = Mapping[str, Mapping[str, float]]
"""Group -> name -> value; a name that is not there has the value zero."""


def network_features(network: Network) -> Features:
    network = live(network)
    found: dict[str, dict[str, float]] = {group: defaultdict(float) for group in GROUPS}
    shapes = dict(network.inputs) | {node.name: node.shape for node in network.nodes}
    makers = {name: Counter({"input": 1}) for name, _ in network.inputs}  # whose results a tensor is made of
    side = network.input_shape[-1]
    macs_at: Counter[int] = Counter()
    channels: dict[int, list[int]] = defaultdict(list)
    known: dict[Any, tuple[str, int, int, int, int]] = {}  # family, level, MACs, parameters, values
    parameters = values = 0
    for node in network.nodes:
        came = makers[node.inputs[0]] if len(node.inputs) == 1 else _together([makers[name] for name in node.inputs])
        makers[node.name] = came
        if node.op in SUMS:
            found["shape"]["summed"] += len(node.inputs)
        elif node.op == "Identity":
            found["shape"]["identities"] += 1
        elif node.op in ACTIVATIONS:
            found["shape"]["activations"] += 1
        if node.op in BETWEEN:
            continue
        alike = (node.op, node.attributes, node.shape, *(shapes[name] for name in node.inputs))
        if alike not in known:  # cells repeat themselves
            kernel = kernel_of(network, node, "fp32")
            named = family(node, _channels(shapes[node.inputs[0]]) if node.inputs else 0)
            known[alike] = named, _level(side, node), kernel.macs, kernel.params, prod(node.shape)
        name, level, macs, own_parameters, own_values = known[alike]
        values += own_values
        makers[node.name] = Counter({name: 1})
        found["operation"][name] += 1
        for before, times in came.items():
            found["order"][f"{before} > {name}"] += times
        found["level"][f"{name} at {level}"] += 1
        if macs:
            macs_at[level] += macs
            channels[level].append(_channels(node.shape))
            parameters += own_parameters
    for level, macs in macs_at.items():
        found["level"][f"MACs at {level}"] = log(macs)
        found["level"][f"channels at {level}"] = sum(map(log, channels[level])) / len(channels[level])
    sizes = {"MACs": macs_at.total(), "parameters": parameters, "values": values, "side": side}
    found["size"] |= {name: log(max(1, size)) for name, size in sizes.items()}
    found["shape"] |= _paths(network)
    return found


def _together(makers: Sequence[Counter[str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for each in makers:
        found.update(each)
    return found


def _channels(shape: tuple[int, ...]) -> int:
    return shape[1] if len(shape) > 1 else 1


def _level(side: int, node: Node) -> int:
    """How often the side was halved; what has no side any more is beyond all that do."""
    return round(log2(max(1.0, side / node.shape[-1]))) if len(node.shape) == 4 else round(log2(max(1, side))) + 1


def _paths(network: Network) -> dict[str, float]:
    """From the inputs to the outputs; Zeros are no inputs."""
    count: dict[str, int] = {name: 1 for name, _ in network.inputs}
    longest = dict.fromkeys(count, 0)
    shortest = dict(longest)
    for node in network.nodes:
        fed = [name for name in node.inputs if count[name]]
        length = node.op in WEIGHTED
        count[node.name] = sum(count[name] for name in fed)
        longest[node.name] = max((longest[name] for name in fed), default=0) + length
        shortest[node.name] = min((shortest[name] for name in fed), default=0) + length
    out = network.outputs
    return {
        "paths": log(max(1, sum(count[name] for name in out))),
        "depth": max(longest[name] for name in out),
        "shortest": min(shortest[name] for name in out),
    }
