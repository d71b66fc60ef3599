"""What TensorRT's parser does not take of a QDQ model, or takes and reads otherwise than ONNX means it.

Sources: `QuantDequantLinearHelper` of the parser, https://github.com/onnx/onnx-tensorrt/blob/release/8.2-GA/builtin_op_importers.cpp
(zero points, scales, three inputs, per channel for weights alone) and
https://github.com/onnx/onnx-tensorrt/blob/release/10.0-GA/onnxOpImporters.cpp (uint8 is read as int8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

QDQ = ("QuantizeLinear", "DequantizeLinear")
PER_CHANNEL_OPSET = 13
WRITE_TRT = "Write the model in edgenas's `trt` QDQ flavour."


@dataclass(frozen=True)
class Violation:
    """`node` is the node's name, or its output's where it has none; `what` and `remedy` are a sentence each."""

    node: str
    what: str
    remedy: str


def violations(model: onnx.ModelProto) -> tuple[Violation, ...]:
    """All of them, in the order of the nodes; () for a model that is legal or has no Q/DQ at all. Weights are not read."""
    constants = _Constants(model)
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)
    return tuple(
        Violation(name, f"{node.op_type} node {name!r} {problem}", remedy)
        for node in model.graph.node
        if node.op_type in QDQ and node.domain in ("", "ai.onnx")
        for name in [node.name or node.output[0]]
        for problem, remedy in (*_zero_point(node, constants), *_scale(node, constants, opset))
    )


def int8_constants(model: onnx.ModelProto) -> tuple[str, ...]:
    """The dequantizers that read int8 constants, such as weights that were quantized beforehand. TensorRT 10 takes them; version 8
    refuses int8 constants (https://github.com/NVIDIA/TensorRT/issues/2163) and wants float ones with a quantizer."""
    constants = _Constants(model)
    return tuple(
        node.name or node.output[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants.tensors
    )


class _Constants:
    """`names` is everything that follows from constants alone; `tensors` what lies in the file, copies by Identity included."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.names = {"", *self.tensors}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self.tensors.update((node.output[0], each.t) for each in node.attribute if each.name == "value")
            elif node.op_type == "Identity" and node.input[0] in self.tensors:
                self.tensors[node.output[0]] = self.tensors[node.input[0]]
            if self.names.issuperset(node.input):
                self.names.update(node.output)

    def value(self, name: str) -> np.ndarray | None:
        from onnx import numpy_helper

        return numpy_helper.to_array(self.tensors[name]) if name in self.tensors else None


Problems = Iterator[tuple[str, str]]


def _zero_point(node: onnx.NodeProto, constants: _Constants) -> Problems:
    from onnx import TensorProto

    if len(node.input) < 3 or not node.input[2]:
        yield "has no zero point: TensorRT 8 needs one, and a quantizer without one makes uint8", WRITE_TRT
        return
    value = constants.value(node.input[2])
    if value is None:
        yield (
            "has a zero point that is computed when the model runs",
            "Quantize statically: TensorRT only takes constants.",
        )
        return
    kind = constants.tensors[node.input[2]].data_type
    if kind == TensorProto.UINT8:
        yield "is uint8, which TensorRT silently reads as int8", WRITE_TRT
    elif kind == TensorProto.INT32:
        yield (
            "is int32, as a quantized bias is, which TensorRT refuses",
            "Leave the bias in float, as the `trt` flavour does.",
        )
    elif kind in (TensorProto.INT16, TensorProto.UINT16):
        yield "has 16 bits, which TensorRT can't quantize to", WRITE_TRT
    if np.any(value.astype(np.float32) != 0):
        yield f"has the zero point {value.ravel()[np.flatnonzero(value)[0]]}, and TensorRT only takes 0", WRITE_TRT


def _scale(node: onnx.NodeProto, constants: _Constants, opset: int) -> Problems:
    value = constants.value(node.input[1])
    if value is None:
        yield "has a scale that is computed when the model runs", "Quantize statically: TensorRT only takes constants."
        return
    wrong = value[~(np.isfinite(value) & (value > 0))]
    if wrong.size:
        yield f"has the scale {wrong.flat[0]}, and TensorRT only takes scales above 0", "Calibrate the model again."
    if value.size == 1:
        return
    if opset < PER_CHANNEL_OPSET:
        yield f"is per channel at opset {opset}, which has no axis for it", f"Export at opset {PER_CHANNEL_OPSET}."
    if node.input[0] not in constants.names:
        yield "is per channel on an activation; TensorRT only takes that for weights", WRITE_TRT
