"""How large the file of a network will be, without writing it: what a search under a size budget looks at."""

from __future__ import annotations

from edgenas.artifacts.kernel import Precision
from edgenas.network.costs import params
from edgenas.network.graph import WEIGHTED, Network

# Bytes a weight, a bias, a weighted node, a node, and of the rest: fitted to files that `write` and `qdq` wrote
# (tests/test_onnxio.py holds them to 0.5 % in FP32 and 3 % in INT8). An FP16 engine is built from the FP32 file.
_BYTES: dict[Precision, tuple[float, float, float, float, float]] = {
    "fp32": (4, 4, 360, 62, -600),
    "fp16": (4, 4, 360, 62, -600),
    "int8": (1, 16, 1770, 130, -3000),
}


def file_bytes(network: Network, precision: Precision) -> int:
    """Of the ONNX file in that precision, for ONNX Runtime."""
    weighted = [node for node in network.nodes if node.op in WEIGHTED]
    biases = sum(node.shape[1] for node in weighted)
    per_weight, per_bias, per_weighted, per_node, rest = _BYTES[precision]
    total = per_weight * (params(network) - biases) + per_bias * biases
    return round(total + per_weighted * len(weighted) + per_node * len(network.nodes) + rest)
