"""Network + weights -> ONNX, FP32. The file carries the least IR version for its opset, so that old runtimes load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.errors import EdgenasError
from edgenas.network.graph import Network, Node

if TYPE_CHECKING:
    import onnx

OPSET = 13  # the newest that TensorRT 8.2 takes, and the first with per-channel Q/DQ
IR_VERSION = 7  # the least for opset 13 (ONNX's versioning table); onnx itself would write a newer one
Weights = Mapping[str, np.ndarray]  # "<node>.weight" and "<node>.bias", float32


def to_onnx(network: Network, weights: Weights) -> onnx.ModelProto:
    """An FP32 model with input `network.input_name` (float32, the network's shape) and output `network.output_name`."""
    from onnx import numpy_helper

    nodes = []
    initializers = []
    for node in network.nodes:
        inputs = list(node.inputs)
        if node.op in ("Conv", "Gemm"):
            for part in ("weight", "bias"):
                name = f"{node.name}.{part}"
                initializers.append(numpy_helper.from_array(np.ascontiguousarray(weights[name], np.float32), name))
                inputs.append(name)
        nodes.extend(onnx_nodes(node, inputs, node.name))
        initializers.extend(clip_bounds(node))
    return finish(network, nodes, initializers)


def onnx_nodes(node: Node, inputs: list[str], output: str) -> list[onnx.NodeProto]:
    """The ONNX nodes (one, or the primitives that opset 13 needs) for `node`, with these inputs and this output."""
    from onnx import helper

    if node.op == "HardSwish":  # an operator from opset 14 on
        gate = f"{output}.gate"
        return [
            helper.make_node("HardSigmoid", inputs, [gate], name=gate, alpha=1 / 6, beta=0.5),
            helper.make_node("Mul", [inputs[0], gate], [output], name=node.name),
        ]
    if node.op == "Clip":  # bounds are inputs from opset 11 on
        return [helper.make_node("Clip", [*inputs, f"{node.name}.min", f"{node.name}.max"], [output], name=node.name)]
    attributes: dict[str, Any] = {key: list(v) if isinstance(v, tuple) else v for key, v in node.attributes}
    if node.op == "Gemm":
        attributes["transB"] = 1
    return [helper.make_node(node.op, inputs, [output], name=node.name, **attributes)]


def clip_bounds(node: Node) -> list[onnx.TensorProto]:
    """The constants `<node>.min` and `<node>.max` of a Clip; nothing for other nodes."""
    from onnx import numpy_helper

    if node.op != "Clip":
        return []
    return [
        numpy_helper.from_array(np.array(node.attribute(end), np.float32), f"{node.name}.{end}")
        for end in ("min", "max")
    ]


def finish(network: Network, nodes: list[Any], initializers: list[Any], output: str | None = None) -> onnx.ModelProto:
    """The checked model around `nodes`."""
    import onnx
    from onnx import TensorProto, helper

    output = output or network.output_name
    graph = helper.make_graph(
        nodes,
        "edgenas",
        [helper.make_tensor_value_info(network.input_name, TensorProto.FLOAT, network.input_shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, network.shape_of(network.output_name))],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "edgenas"
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EdgenasError(f"the ONNX graph that was written is not valid: {error}") from error
    return model
