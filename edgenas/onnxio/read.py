"""ONNX -> Network: any file with static shapes, written by `write` or by anyone else.

A node is called after the tensor that it makes. Defaults are spelt out (pads instead of `auto_pad`, every attribute of a Conv), so that
equal computations give equal nodes; what exporters write in pieces (HardSigmoid x Mul, x * Sigmoid(x)) becomes one activation again;
quantizers and dequantizers go, and the file is called INT8. Weights are shapes here, never values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.artifacts.kernel import Precision
from edgenas.errors import InputError
from edgenas.network.fold import fold
from edgenas.network.graph import WEIGHTED, Network, Node, Shape
from edgenas.onnxio.load import OpenGraph, attributes, load, open_graph

if TYPE_CHECKING:
    import onnx

POOLS = ("MaxPool", "AveragePool", "LpPool")
WINDOWED = ("Conv", "ConvTranspose", *POOLS)
ALIASES = ("Identity", "Dropout", "QuantizeLinear", "DequantizeLinear")
VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
# QOperator files: what is computed, and where the operands stand among scales and zero points
QUANTIZED = {
    "QLinearConv": ("Conv", (0, 3)),
    "QLinearMatMul": ("MatMul", (0, 3)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearSigmoid": ("Sigmoid", (0,)),
    "QLinearLeakyRelu": ("LeakyRelu", (0,)),
    "QGemm": ("Gemm", (0, 3)),
}
HARD_SIGMOID = {"alpha": 0.2, "beta": 0.5}  # ONNX's defaults
HARD_SWISH_GATE = {"alpha": 1 / 6, "beta": 0.5}
KEPT_NUMBERS = {"Clip": ("min", "max"), "HardSigmoid": ("alpha", "beta")}


@dataclass(frozen=True)
class ReadModel:
    """`precision` is INT8 for a file with quantizers, else FP32; `notes` say what had to be assumed."""

    network: Network
    precision: Precision
    notes: tuple[str, ...]


def read(model: str | Path | onnx.ModelProto) -> Network:
    """The network in a file, or in a model in memory. Raises InputError as `read_model` does."""
    return read_model(model).network


def read_model(model: str | Path | onnx.ModelProto, input_shapes: Mapping[str, Shape] | None = None) -> ReadModel:
    """Raises InputError, naming file and node, for what has no static shapes or is no valid ONNX (see `load.open_graph`)."""
    graph = open_graph(model, input_shapes)
    reader = _Reader(graph)
    for proto in graph.protos:
        reader.take(proto)
    reader.merge_slices()
    outputs = tuple(dict.fromkeys(reader.source(name) for name in graph.outputs))
    network = fold(Network(graph.inputs, tuple(reader.nodes), outputs))
    return ReadModel(network, reader.precision, (*graph.notes, *_type_notes(graph)))


def read_weights(model: str | Path | onnx.ModelProto) -> dict[str, np.ndarray]:
    """ "<node>.weight" and "<node>.bias" (zeros where the file has none), float32, under the names that `read` gives: of the
    convolutions and fully connected layers. Raises InputError where a weight is computed or lies in a file that is missing."""
    import onnx

    if not isinstance(model, onnx.ModelProto):
        path, model = Path(model), load(Path(model))
        try:
            onnx.load_external_data_for_model(model, str(path.parent))
        except (OSError, onnx.checker.ValidationError) as error:
            raise InputError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    graph = open_graph(model)
    weights: dict[str, np.ndarray] = {}
    for proto in (proto for proto in graph.protos if proto.op_type in WEIGHTED):
        name, arrays = proto.output[0], [graph.value(tensor) for tensor in proto.input[1:]]
        weight = arrays[0]
        if weight is None:
            raise graph.refusal(proto, f"reads {proto.input[1]!r} where a constant of the file was expected")
        if proto.op_type == "Gemm" and not attributes(proto).get("transB", 0):
            weight = weight.T
        bias = arrays[1] if len(arrays) > 1 else None
        weights[f"{name}.weight"] = weight.astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(len(weight), np.float32) if bias is None else bias.astype(np.float32)
    return weights


class _Reader:
    """Turns the nodes of a file, in order, into those of a Network."""

    def __init__(self, graph: OpenGraph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.precision: Precision = "fp32"
        self._alias: dict[str, str] = {}
        self._gates = _gates(graph)
        self._inner = set(self._gates.values())
        self._maker = {proto.output[0]: proto for proto in graph.protos}
        self._read = {*graph.outputs, *(tensor for proto in graph.protos for tensor in proto.input if tensor)}

    def source(self, tensor: str) -> str:
        """The tensor of the Network that holds what `tensor` of the file does."""
        while tensor in self._alias:
            tensor = self._alias[tensor]
        return tensor

    def take(self, proto: onnx.NodeProto) -> None:
        op, name = proto.op_type, proto.output[0]
        if op.startswith(("QLinear", "Quantize")) or op == "QGemm":
            self.precision = "int8"
        if name in self._inner:
            return
        if op in ALIASES:
            self._alias[name] = proto.input[0]
            return
        if op in QUANTIZED:
            op, places = QUANTIZED[op]
            operands = [proto.input[i] for i in places]
        else:
            operands = [tensor for tensor in proto.input if tensor]
        if name in self._gates:
            gate = self._gates[name]
            op = "HardSwish" if self._maker[gate].op_type == "HardSigmoid" else "Swish"
            operands = [tensor for tensor in operands if tensor != gate]
        computed = tuple(self.source(tensor) for tensor in operands if tensor not in self.graph.constants)
        fixed = tuple(self.graph.shape(tensor) for tensor in operands if tensor in self.graph.constants
                      if tensor in self.graph.shapes)  # fmt: skip
        self._append(proto, op, computed, fixed)

    def _append(self, proto: onnx.NodeProto, op: str, computed: tuple[str, ...], fixed: tuple[Shape, ...]) -> None:
        name, graph = proto.output[0], self.graph
        in_shape = graph.shape(proto.input[0]) if proto.input and proto.input[0] in graph.shapes else ()
        out_shape = graph.shape(name)
        given = attributes(proto)
        kept: dict[str, Any] = {}
        if op in WINDOWED:
            if len(in_shape) != 4:
                op = f"{op}{len(in_shape) - 2}d"  # along a line or through a volume: another kernel altogether
            else:
                kernel = tuple(given.get("kernel_shape") or self._weight_shape(proto)[2:])
                kept = _window(op, given, kernel, in_shape[2:], out_shape[2:])
        elif op == "MatMul" and len(computed) == 1 and fixed and len(out_shape) == 2 and out_shape[0] == 1:
            op = "Gemm"
        elif op == "Gemm" and (len(computed) > 1 or out_shape[0] != 1):
            op = "MatMul"
        elif op in VIEWS:
            op = "Flatten" if len(out_shape) == 2 and len(in_shape) > 2 and out_shape[0] == in_shape[0] else "Reshape"
        elif op in KEPT_NUMBERS:
            kept = self._numbers(proto, given)
        elif op in ("Concat", "Softmax", "LogSoftmax", "Split"):
            kept = {"axis": given.get("axis", 0 if op == "Split" else -1) % max(len(in_shape), 1)}
        elif op == "Pad" and (pads := self._zero_padding(proto, given, len(in_shape))):
            kept = {"pads": pads}
        elif op == "Transpose":
            kept = {"perm": tuple(given.get("perm", range(len(in_shape))[::-1]))}
        elif op in ("Resize", "Upsample"):
            kept = {"mode": given.get("mode", b"nearest").decode()}
        if op not in (*WINDOWED, "Gemm", "Clip", *VIEWS, "Resize", "Upsample", "Pad", "Slice") and fixed:
            kept["constants"] = fixed
        if proto.domain not in ("", "ai.onnx", "com.microsoft"):
            op = f"{proto.domain}.{op}"
        self.nodes.append(Node(name, op, computed, out_shape, tuple(sorted(kept.items()))))
        for other in proto.output[1:]:
            if other in self._read:
                self.nodes.append(Node(other, "Part", (name,), self.graph.shape(other)))

    def _weight_shape(self, proto: onnx.NodeProto) -> Shape:
        """Of a convolution; its weights may be computed as well."""
        return self.graph.shape(proto.input[3 if proto.op_type == "QLinearConv" else 1])

    def merge_slices(self) -> None:
        """Slices that together take a tensor apart are a Split, as runtimes run them."""
        slices: dict[str, list[Node]] = {}
        for node in self.nodes:
            if node.op == "Slice" and len(node.inputs) == 1:
                slices.setdefault(node.inputs[0], []).append(node)
        shapes = dict(self.graph.inputs) | {node.name: node.shape for node in self.nodes}
        for source, found in slices.items():
            if len(found) > 1 and sum(prod(node.shape) for node in found) == prod(shapes[source]):
                axis = next(i for i, (a, b) in enumerate(zip(found[0].shape, shapes[source], strict=True)) if a != b)
                first = replace(found[0], op="Split", attributes=(("axis", axis),))
                parts = {node.name: replace(node, op="Part", inputs=(first.name,)) for node in found[1:]}
                place = self.nodes.index(found[0])
                rest = [node for node in self.nodes[place + 1 :] if node.name not in parts]
                self.nodes[place:] = [first, *parts.values(), *rest]

    def _zero_padding(self, proto: onnx.NodeProto, given: Mapping[str, Any], rank: int) -> Shape | None:
        """top, left, bottom, right of a Pad of images with zeros; None for any other."""
        amounts = given.get("pads") or (self.graph.value(proto.input[1]) if len(proto.input) > 1 else None)
        filler = self.graph.value(proto.input[2]) if len(proto.input) > 2 and proto.input[2] else given.get("value", 0)
        if rank != 4 or amounts is None or len(amounts) != 8 or filler is None or np.any(np.asarray(filler) != 0):
            return None
        pads = tuple(int(amount) for amount in amounts)
        usual = (
            given.get("mode", b"constant") == b"constant" and min(pads) >= 0 and not any(pads[i] for i in (0, 1, 4, 5))
        )
        return (pads[2], pads[3], pads[6], pads[7]) if usual else None

    def _numbers(self, proto: onnx.NodeProto, given: Mapping[str, Any]) -> dict[str, float]:
        """Bounds and slopes where they are not ONNX's defaults. Clip's are attributes before opset 11, inputs from then on."""
        keys = KEPT_NUMBERS[proto.op_type]
        found: dict[str, Any] = {key: given[key] for key in keys if key in given}
        if proto.op_type == "Clip":
            bounds = zip(keys, proto.input[1:], strict=False)
            found |= {key: self.graph.value(tensor) for key, tensor in bounds if tensor}
        else:
            found = {key: value for key, value in found.items() if not np.isclose(value, HARD_SIGMOID[key])}
        # the shortest decimal that is this float32: 0.1, not 0.10000000149
        return {k: float(str(np.asarray(v, np.float32).reshape(()))) for k, v in found.items() if v is not None}


def _type_notes(graph: OpenGraph) -> tuple[str, ...]:
    """Latencies are those of FP32 and INT8: a file that computes in another type takes another time."""
    from onnx import TensorProto

    others = {TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
    tensors = {tensor.name: tensor.data_type for tensor in graph.model.graph.initializer}
    tensors |= {value.name: value.type.tensor_type.elem_type for value in graph.model.graph.input}
    found = sorted({others[kind] for kind in tensors.values() if kind in others})
    return tuple(f"the file computes in {name}, which is estimated as if it were float32" for name in found)


def _window(op: str, given: Mapping[str, Any], kernel: Shape, sides: Shape, out_sides: Shape) -> dict[str, Any]:
    """kernel_shape, strides, dilations and pads (top, left, bottom, right) of a convolution or a pool, and a convolution's groups."""
    strides, dilations = tuple(given.get("strides", (1, 1))), tuple(given.get("dilations", (1, 1)))
    auto, pads = given.get("auto_pad", b"NOTSET"), tuple(given.get("pads", (0,) * 4))
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        if op == "ConvTranspose":
            total = [max((x - 1) * s + r - o, 0)
                     for x, s, r, o in zip(sides, strides, reach, out_sides, strict=True)]  # fmt: skip
        else:
            total = [max((-(-x // s) - 1) * s + r - x, 0) for x, s, r in zip(sides, strides, reach, strict=True)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*less, *more) if auto == b"SAME_UPPER" else (*more, *less)
    window: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    if op not in POOLS:
        return window | {"group": given.get("group", 1)}
    window |= {key: given[key] for key in ("ceil_mode", "count_include_pad") if given.get(key)}
    return {key: value for key, value in window.items() if (key, value) != ("dilations", (1, 1))}


def _gates(graph: OpenGraph) -> dict[str, str]:
    """Mul -> the gate that it multiplies its other operand with, where the two together are HardSwish or Swish."""
    uses = Counter([*graph.outputs, *(x for proto in graph.protos for x in proto.input)])
    halves = set()  # (x, gate) of each gate that has one reader
    for proto in graph.protos:
        if proto.op_type == "Sigmoid" and uses[proto.output[0]] == 1:
            halves.add((proto.input[0], proto.output[0]))
        if proto.op_type == "HardSigmoid" and uses[proto.output[0]] == 1:
            form = HARD_SIGMOID | attributes(proto)
            if all(np.isclose(form[key], HARD_SWISH_GATE[key]) for key in HARD_SIGMOID):
                halves.add((proto.input[0], proto.output[0]))
    pairs = [
        (p.output[0], x) for p in graph.protos if p.op_type == "Mul" for x in (tuple(p.input), tuple(p.input)[::-1])
    ]
    return {mul: pair[1] for mul, pair in pairs if pair in halves}
