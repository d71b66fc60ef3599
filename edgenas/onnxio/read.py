"""ONNX -> Network: FP32 files made of the operators that a Network knows, written by `write` or by anyone else.

A node is called after the tensor that it makes. Defaults are spelt out (pads instead of `auto_pad`, every attribute of a Conv), so that
equal computations give equal nodes; HardSigmoid x Mul, which is how opset 13 says it, becomes HardSwish again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.errors import InputError
from edgenas.network.graph import ACTIVATIONS, WEIGHTED, Network, Node, Shape

if TYPE_CHECKING:
    import onnx

POOLS = ("MaxPool", "AveragePool")
OPERATORS = (*WEIGHTED, *ACTIVATIONS, "Add", *POOLS, "GlobalAveragePool", "Flatten")
KNOWN = f"Known: {', '.join(OPERATORS)}. Export in FP32 and evaluation mode, so that BatchNorm is folded."
GEMM = {"transA": 0, "transB": 1, "alpha": 1.0, "beta": 1.0}  # y = x W^T + b
HARD_SIGMOID = {"alpha": 0.2, "beta": 0.5}  # ONNX's defaults
HARD_SWISH_GATE = {"alpha": 1 / 6, "beta": 0.5}


def read(model: str | Path | onnx.ModelProto) -> Network:
    """The network in a file, or in a model in memory. Raises InputError, naming the node, for what a Network can't hold."""
    graph = _open(model)
    nodes = tuple(_node(graph, proto) for proto in graph.protos if proto.output[0] not in graph.gates.values())
    return Network(((graph.input_name, graph.shape(graph.input_name)),), nodes, (graph.output_name,))


def read_weights(model: str | Path | onnx.ModelProto) -> dict[str, np.ndarray]:
    """ "<node>.weight" and "<node>.bias" (zeros where the file has none), float32, under the names that `read` gives."""
    graph = _open(model)
    weights: dict[str, np.ndarray] = {}
    for proto in (proto for proto in graph.protos if proto.op_type in WEIGHTED):
        name, weight, bias = proto.output[0], graph.constant(proto, 1), graph.constant(proto, 2)
        weights[f"{name}.weight"] = weight.astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(len(weight), np.float32) if bias is None else bias.astype(np.float32)
    return weights


@dataclass(frozen=True)
class _Graph:
    """A checked file. `protos` are the nodes that compute; `gates` names, for each Mul that ends a HardSwish, its HardSigmoid."""

    label: str
    protos: list[onnx.NodeProto]
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    gates: Mapping[str, str]
    input_name: str
    output_name: str

    def shape(self, tensor: str) -> Shape:
        if tensor not in self.shapes:
            raise InputError(f"{self.label}: the tensor {tensor!r} has no static shape", "Export with a batch of 1.")
        return self.shapes[tensor]

    def constant(self, proto: onnx.NodeProto, position: int) -> Any:
        """The array that the node reads there, or None where it reads nothing."""
        name = proto.input[position] if position < len(proto.input) else ""
        if name and name not in self.constants:
            raise self.refusal(proto, f"reads {name!r} where a constant of the file was expected")
        return self.constants.get(name)

    def refusal(self, proto: onnx.NodeProto, problem: str) -> InputError:
        return InputError(f"{self.label}: {proto.op_type} node {proto.output[0]!r} {problem}")


def _node(graph: _Graph, proto: onnx.NodeProto) -> Node:
    name, op, inputs = proto.output[0], proto.op_type, tuple(proto.input[: 2 if proto.op_type == "Add" else 1])
    if name in graph.gates:
        return Node(name, "HardSwish", tuple(x for x in proto.input if x != graph.gates[name]), graph.shape(name))
    if fixed := [x for x in inputs if x in graph.constants]:
        raise graph.refusal(proto, f"reads the constant {fixed[0]!r} where a computed tensor was expected")
    shapes = [graph.shape(x) for x in inputs]
    if op == "Add" and shapes[0] != shapes[1]:
        raise graph.refusal(proto, f"adds {shapes[0]} and {shapes[1]}; equal shapes were expected")
    return Node(name, op, inputs, graph.shape(name), tuple(sorted(_kept(graph, proto, shapes[0]).items())))


def _kept(graph: _Graph, proto: onnx.NodeProto, in_shape: Shape) -> dict[str, Any]:
    """The attributes that a Network's node has; beyond the window of a Conv or a pool, only what is not ONNX's default."""
    given, op = _attributes(proto), proto.op_type
    if op in ("Conv", *POOLS) and len(in_shape) != 4:
        raise graph.refusal(proto, f"reads {in_shape}; images (1, C, H, W) were expected")
    constants = [graph.constant(proto, i) for i in (1, 2)] if op in (*WEIGHTED, "Clip") else []
    if op == "Conv":
        return _window(given, constants[0].shape[2:], in_shape[2:]) | {"group": given.get("group", 1)}
    if op in POOLS:
        window = _window(given, tuple(given["kernel_shape"]), in_shape[2:])
        window |= {key: given[key] for key in ("ceil_mode", "count_include_pad") if given.get(key)}
        return {key: value for key, value in window.items() if (key, value) != ("dilations", (1, 1))}
    if op == "Gemm" and (form := GEMM | {"transB": 0} | given) != GEMM:
        raise graph.refusal(proto, f"has {form}; {GEMM} was expected")
    if op == "Flatten" and given.get("axis", 1) % len(in_shape) != 1:
        raise graph.refusal(proto, f"flattens from axis {given['axis']}; axis 1 was expected")
    numbers: dict[str, Any] = {}
    if op == "HardSigmoid":
        numbers = {key: value for key, value in given.items() if not np.isclose(value, HARD_SIGMOID[key])}
    if op == "Clip":  # attributes before opset 11, inputs from then on
        numbers = dict(zip(("min", "max"), constants, strict=True)) | given
    # the shortest decimal that is this float32: 0.1, not 0.10000000149
    return {k: float(str(np.asarray(v, np.float32).reshape(()))) for k, v in numbers.items() if v is not None}


def _window(given: Mapping[str, Any], kernel: Shape, sides: Shape) -> dict[str, Any]:
    """kernel_shape, strides, dilations and pads (top, left, bottom, right) of a Conv or a pool."""
    strides, dilations = tuple(given.get("strides", (1, 1))), tuple(given.get("dilations", (1, 1)))
    auto, pads = given.get("auto_pad", b"NOTSET"), tuple(given.get("pads", (0,) * 4))
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        total = [max((-(-x // s) - 1) * s + r - x, 0) for x, s, r in zip(sides, strides, reach, strict=True)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*less, *more) if auto == b"SAME_UPPER" else (*more, *less)
    return {"kernel_shape": tuple(kernel), "strides": strides, "dilations": dilations, "pads": pads}


def _open(model: str | Path | onnx.ModelProto) -> _Graph:
    import onnx
    from onnx import numpy_helper

    label = "the ONNX model" if isinstance(model, onnx.ModelProto) else str(model)
    proto = model if isinstance(model, onnx.ModelProto) else _load(Path(model))
    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    constant = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    tensors |= {node.output[0]: node.attribute[0].t for node in constant}
    protos = [node for node in graph.node if node.output[0] not in tensors]
    inputs = [value for value in graph.input if value.name not in tensors]
    for what, values in (("input", inputs), ("output", list(graph.output))):
        if len(values) != 1:
            raise InputError(f"{label}: one {what} was expected, but it has {len(values)}: {[v.name for v in values]}")
    source, output = inputs[0].name, graph.output[0].name
    gates = _gates(protos, output)
    for node in protos:
        if node.domain not in ("", "ai.onnx") or (node.op_type not in OPERATORS and node.output[0] not in gates):
            operator = f"{node.domain}.{node.op_type}".lstrip(".")
            raise InputError(f"{label}: node {node.output[0]!r} is a {operator}, which can't be read", KNOWN)
        if any(node.output[1:]):
            raise InputError(f"{label}: {node.op_type} node {node.output[0]!r} has several outputs; one was expected")
    constants = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    found = _Graph(label, protos, constants, _shapes(proto, label), gates, source, output)
    if found.shape(source)[0] != 1 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        kind = f"{onnx.TensorProto.DataType.Name(inputs[0].type.tensor_type.elem_type)} {found.shape(source)}".lower()
        raise InputError(f"{label}: float and a batch of 1 were expected, but the input {source!r} is {kind}")
    return found


def _load(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, format="protobuf")
    except (OSError, onnx.checker.ValidationError) as error:  # the latter for weights that should lie beside the file
        raise InputError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    except DecodeError:
        model = onnx.ModelProto()
    if not model.graph.node:
        raise InputError(f"{path} is not an ONNX file, or was cut short", "Export or copy it again.")
    return model


def _shapes(model: onnx.ModelProto, label: str) -> dict[str, Shape]:
    """The shape of every tensor whose sides are all known. Raises InputError for a graph that breaks ONNX's own rules."""
    import onnx

    try:
        onnx.checker.check_model(model)
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"{label} is not valid ONNX: {' '.join(str(error).split())}") from error
    sides = {t.name: t.type.tensor_type.shape.dim for t in (*graph.input, *graph.value_info, *graph.output)}
    return {n: tuple(d.dim_value for d in dims) for n, dims in sides.items() if dims and all(d.dim_value for d in dims)}


def _gates(protos: list[onnx.NodeProto], output: str) -> dict[str, str]:
    uses = Counter([output, *(x for proto in protos for x in proto.input)])
    halves = set()  # (x, gate) of each HardSigmoid that has one reader and a HardSwish's slope
    for proto in (proto for proto in protos if proto.op_type == "HardSigmoid" and uses[proto.output[0]] == 1):
        form = HARD_SIGMOID | _attributes(proto)
        if all(np.isclose(form[key], HARD_SWISH_GATE[key]) for key in form):
            halves.add((proto.input[0], proto.output[0]))
    pairs = [(p.output[0], x) for p in protos if p.op_type == "Mul" for x in (tuple(p.input), tuple(p.input)[::-1])]
    return {mul: pair[1] for mul, pair in pairs if pair in halves}


def _attributes(proto: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
