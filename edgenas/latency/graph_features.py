"""Numbers that say what a network costs as a whole and how its kernels hang together, from the Network alone.

Two groups. `work`: kernels, MACs and bytes of each family (an operator with its window, stride and kind of grouping). `structure`: what
compilers make of the graph around them, which shifts those costs:

- `siblings F`: kernels of a family that differ, where those of one window that read one tensor count once (merged horizontally);
- `shared F`: kernels that read a tensor which others read too (its activation can't go into what makes it);
- `neck F`: kernels that read a tensor through which everything goes (nothing else can run beside what makes it);
- `activations`, and `activations aliased`, which takes an Identity for what it reads: distinct tensors that are activated;
- `sources`, `paths` (logarithm of how many lead from input to output), `depth` and `depth convolutions`: the longest path;
- `zeros read` (and `zero sums`, which count as work): constants in the reachable graph, single ones and sums of several;
- `at F SHAPE`: kernels of one family and shape.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log1p, prod

from edgenas.network.costs import node_macs
from edgenas.network.graph import ACTIVATIONS, WEIGHTED, Network, Node
from edgenas.network.readings import READINGS, ZERO, Reading, read

VIEWS = frozenset(("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Part"))
SUMS = frozenset(("Add", "Sum"))
_SAME = 1e-6  # of logarithms of path counts


@dataclass(frozen=True)
class GraphFeatures:
    """Name -> value; a name that is not there has the value zero."""

    work: Mapping[str, float]
    structure: Mapping[str, float]


def graph_features(network: Network, readings: Sequence[Reading] = READINGS) -> dict[Reading, GraphFeatures]:
    """Of each of these readings of the network."""
    zeros = _zero_facts(network, read(network, "reachable"))
    found: dict[Reading, GraphFeatures] = {}
    seen: dict[int, GraphFeatures] = {}
    for reading in readings:
        left = read(network, reading)
        if id(left) not in seen:
            seen[id(left)] = _features(left, zeros)
        found[reading] = seen[id(left)]
    return found


def family(node: Node, in_channels: int) -> str:
    """`Conv 3x3`, `Conv 3x3 /2 depthwise`, `AveragePool 3x3`, `Add`: what is alike but for its shape."""
    if not node.attributes:
        return node.op
    fields = dict(node.attributes)
    if "kernel_shape" not in fields:
        return node.op
    parts = [node.op, "x".join(map(str, fields["kernel_shape"]))]
    if max(fields["strides"]) > 1:
        parts.append("/" + "x".join(map(str, sorted({*fields["strides"]}))))
    if max(fields.get("dilations", (1,))) > 1:
        parts.append(f"dilated {max(fields['dilations'])}")
    groups = fields.get("group", 1)
    if groups > 1:
        parts.append("depthwise" if groups == in_channels else "grouped")
    return " ".join(parts)


def _features(network: Network, zeros: Mapping[str, float]) -> GraphFeatures:
    shapes = dict(network.inputs) | {node.name: node.shape for node in network.nodes}
    through: dict[str, tuple[str, str]] = {}  # activation or Identity -> (tensor that it stands for, activation)
    aliased: dict[str, str] = {}
    kernels: list[tuple[Node, str, str, str]] = []  # node, family, source, activation
    readers: Counter[str] = Counter()
    work: dict[str, float] = defaultdict(float)
    structure: dict[str, float] = defaultdict(float)
    activated: set[tuple[str, str]] = set()
    activated_aliased: set[tuple[str, str]] = set()
    for node in network.nodes:
        source = node.inputs[0] if node.inputs else ""
        if node.op in ACTIVATIONS:
            through[node.name] = (source, node.op)
            activated.add((node.op, source))
            activated_aliased.add((node.op, aliased.get(source, source)))
            continue
        if node.op == "Identity":
            aliased[node.name] = aliased.get(source, source)
            structure["Identity"] += 1
            readers[source] += 1
            continue
        for name in node.inputs:
            readers[through[name][0] if name in through else name] += 1
        if node.op in VIEWS or (node.op == ZERO and not node.inputs):
            continue
        in_shape = shapes[source] if source else node.shape
        name = family(node, in_shape[1] if len(in_shape) > 1 else 0)
        work[f"{name} kernels"] += 1
        moved = prod(node.shape) + sum(prod(shapes[x]) for x in node.inputs)
        macs = node_macs(network, node)
        if macs:
            work[f"{name} MACs"] += macs
        if node.op in WEIGHTED:
            moved += prod(network.weight_shape(node))
        work[f"{name} values moved"] += moved
        structure[f"at {name} {_text(in_shape)}>{_text(node.shape)}"] += 1
        if node.op not in SUMS:
            kernels.append((node, name, *through.get(source, (source, ""))))
    structure["activations"] = len(activated)
    structure["activations aliased"] = len(activated_aliased)
    _add_kernels(structure, kernels, readers, _paths(network))
    work["zero sums"] = zeros["zero sums"]
    structure["zeros read"] = zeros["zeros read"]
    return GraphFeatures(work, structure)


def _add_kernels(
    structure: dict[str, float], kernels: list[tuple[Node, str, str, str]], readers: Counter[str], paths: _Paths
) -> None:
    distinct: set[tuple[str, str, str, tuple[int, ...]]] = set()
    for node, name, source, activation in kernels:
        distinct.add((name, source, activation, node.shape))
        structure[f"shared {name}"] += readers[source] > 1
        structure[f"neck {name}"] += source in paths.necks
    for name, _, _, _ in distinct:
        structure[f"siblings {name}"] += 1
    structure["sources"] = len({source for _, _, source, _ in kernels})
    structure["depth"], structure["depth convolutions"] = paths.depth, paths.depth_convolutions
    structure["paths"] = paths.log_count


@dataclass(frozen=True)
class _Paths:
    log_count: float
    depth: int
    depth_convolutions: int
    necks: frozenset[str]


def _paths(network: Network) -> _Paths:
    """Over the paths from the inputs, and from constants, to the outputs. An Add, an activation and a view have no length."""
    forward: dict[str, float] = {name: 0.0 for name, _ in network.inputs}
    depth = dict.fromkeys(forward, 0)
    convolutions = dict.fromkeys(forward, 0)
    for node in network.nodes:
        name, inputs = node.name, node.inputs
        forward[name] = _log_sum([forward[x] for x in inputs]) if inputs else 0.0
        counts = node.op not in SUMS and node.op not in ACTIVATIONS and node.op not in VIEWS
        depth[name] = max((depth[x] for x in inputs), default=0) + counts
        convolutions[name] = max((convolutions[x] for x in inputs), default=0) + (node.op in ("Conv", "Gemm"))
    backward: dict[str, list[float]] = {name: [0.0] for name in network.outputs}
    for node in reversed(network.nodes):
        if node.name in backward:
            left = _log_sum(backward[node.name])
            for x in node.inputs:
                backward.setdefault(x, []).append(left)
    total = _log_sum([forward[name] for name in network.outputs])
    necks = frozenset(x for x, left in backward.items() if forward[x] + _log_sum(left) > total - _SAME)
    outputs = network.outputs
    return _Paths(total, max(depth[x] for x in outputs), max(convolutions[x] for x in outputs), necks)


def _log_sum(logs: list[float]) -> float:
    total = logs[0]
    for other in logs[1:]:
        high, low = (total, other) if total > other else (other, total)
        total = high + log1p(exp(low - high))
    return total


def _zero_facts(network: Network, reachable: Network) -> Counter[str]:
    """Constants in the reachable graph. A sum of zeros is told from a single zero, because some compilers fold only that."""
    written = network.by_name
    constants = [written[node.name].op in SUMS for node in reachable.nodes if node.op == ZERO]
    return Counter({"zero sums": sum(constants), "zeros read": len(constants) - sum(constants)})


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:]))
