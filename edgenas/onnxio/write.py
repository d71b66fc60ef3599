"""Network + weights -> ONNX, FP32. The file carries the least IR version for its opset, so that old runtimes load it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.errors import EdgenasError
from edgenas.network.graph import Network, Node

if TYPE_CHECKING:
    import onnx

OPSET = 13  # the newest that TensorRT 8.2 takes, and the first with per-channel Q/DQ
IR_VERSION = 7  # the least for opset 13 (ONNX's versioning table); onnx itself would write a newer one
Weights = Mapping[str, np.ndarray]  # "<node>.weight" and "<node>.bias", float32
# what a weighted operation reads after its input, in ONNX's order
WEIGHTS = {
    "Conv": ("weight", "bias"),
    "ConvTranspose": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "BatchNormalization": ("scale", "bias", "mean", "variance"),
}
GATES: dict[str, tuple[str, dict[str, Any]]] = {
    "HardSwish": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "Swish": ("Sigmoid", {}),
}
NOT_IN_ONNX = {"Clip": ("min", "max")}  # attributes that are inputs there


def to_onnx(network: Network, weights: Weights) -> onnx.ModelProto:
    """An FP32 model with the network's inputs and outputs, float32."""
    from onnx import numpy_helper

    nodes = []
    arrays: dict[str, np.ndarray] = {}
    for node in network.nodes:
        if node.op == "Part":
            continue
        constants = {f"{node.name}.{part}": np.ascontiguousarray(weights[f"{node.name}.{part}"], np.float32)
                     for part in WEIGHTS.get(node.op, ())} | constants_of(network, node)  # fmt: skip
        arrays |= constants
        nodes.extend(onnx_nodes(node, [*node.inputs, *constants], outputs_of(network, node)))
    return finish(network, nodes, [numpy_helper.from_array(array, name) for name, array in arrays.items()])


def outputs_of(network: Network, node: Node) -> list[str]:
    """The names of the tensors that the node makes: its own, and those of its further parts."""
    return [node.name, *(name for name in network.consumers[node.name] if network.by_name[name].op == "Part")]


def onnx_nodes(node: Node, inputs: list[str], outputs: list[str]) -> list[onnx.NodeProto]:
    """The ONNX nodes (one, or the primitives that opset 13 needs) for `node`, with these inputs and outputs."""
    from onnx import helper

    if node.op in GATES:  # HardSwish is an operator from opset 14 on, Swish none
        gate_op, attributes = GATES[node.op]
        gate = f"{outputs[0]}.gate"
        return [
            helper.make_node(gate_op, inputs, [gate], name=gate, **attributes),
            helper.make_node("Mul", [inputs[0], gate], outputs, name=node.name),
        ]
    given: dict[str, Any] = {key: list(v) if isinstance(v, tuple) else v for key, v in node.attributes}
    for key in NOT_IN_ONNX.get(node.op, ("constants",)):
        given.pop(key, None)
    if node.op == "Gemm":
        given["transB"] = 1
    if node.op == "BatchNormalization":
        given["epsilon"] = 1e-5
    if node.op == "Resize":  # as torch exports it
        given |= {
            "mode": node.attribute("mode"),
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        inputs = [inputs[0], "", *inputs[1:]]
    return [helper.make_node(node.op, inputs, outputs, name=node.name, **given)]


def constants_of(network: Network, node: Node) -> dict[str, np.ndarray]:
    """What the node reads besides computed tensors and weights, in order: bounds, a shape, scales, operands that are constant."""
    fields = dict(node.attributes)
    if node.op == "Clip":  # bounds are inputs from opset 11 on
        return {f"{node.name}.{end}": np.array(fields[end], np.float32) for end in ("min", "max")}
    if node.op == "Reshape":
        return {f"{node.name}.shape": np.array(node.shape, np.int64)}
    if node.op == "Resize":
        inner = network.shape_of(node.inputs[0])
        scales = [outer / side for outer, side in zip(node.shape, inner, strict=True)]
        return {f"{node.name}.scales": np.array(scales, np.float32)}
    shapes: tuple[tuple[int, ...], ...] = fields.get("constants", ())
    return {
        f"{node.name}.constant{i}": np.linspace(0.5, 1, prod(shape), dtype=np.float32).reshape(shape)
        for i, shape in enumerate(shapes)
    }


def finish(network: Network, nodes: list[Any], initializers: list[Any]) -> onnx.ModelProto:
    """The checked model around `nodes`."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        nodes,
        "edgenas",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in network.inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, network.shape_of(name)) for name in network.outputs],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "edgenas"
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EdgenasError(f"the ONNX graph that was written is not valid: {error}") from error
    return model
