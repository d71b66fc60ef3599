"""INT8 as a QDQ model, in the flavour that the runtime takes ("ort" or "trt"): what is asked of each is at its writer below.

Sources: ONNX Runtime, "Quantize ONNX models" (QDQ format, reduce_range for AVX2 and AVX512 without VNNI), and its qdq_transformer
selectors for what becomes QLinearConv, QLinearAdd, QLinearGlobalAveragePool, QGemm; NVIDIA TensorRT Developer Guide, "Explicit
Quantization" with its "Q/DQ Layer-Placement Recommendations",
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgenas.network.graph import Network, Node
from edgenas.onnxio.write import WEIGHTS, Weights, constants_of, finish, onnx_nodes, outputs_of

if TYPE_CHECKING:
    import onnx

FOLDED = ("Relu", "Clip")
QUANTIZED_INPUT = ("Conv", "Gemm", "AveragePool", "GlobalAveragePool")
SAME_SCALE = (
    "MaxPool",
    "Flatten",
    "Reshape",
    "Transpose",
    "Resize",
    "Split",
)  # move or select values, and keep the quantization


TINY = float(np.finfo(np.float32).tiny)  # a scale that float32 would round to 0 is illegal

Flavour = Literal["ort", "trt"]


@dataclass(frozen=True)
class ActivationQuantization:
    """value = scale * (q - zero_point), q in 0..255."""

    scale: float
    zero_point: int

    @property
    def max_abs(self) -> float:
        """The greatest magnitude that it can say."""
        return max(self.zero_point, 255 - self.zero_point) * self.scale

    @property
    def symmetric_scale(self) -> float:
        """Of a signed 8-bit range around 0 that holds the same values: |q| <= 127."""
        return max(self.max_abs / 127, TINY)


def quantize_weights(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(out, ...) float -> (int8 of the same shape, float32 scale per output channel); symmetric, |q| < 2**(bits - 1)."""
    limit = 2 ** (bits - 1) - 1
    scale = weight_scales(weight, bits)
    shape = (-1,) + (1,) * (weight.ndim - 1)
    return np.clip(np.rint(weight / scale.reshape(shape)), -limit, limit).astype(np.int8), scale


def weight_scales(weight: np.ndarray, bits: int) -> np.ndarray:
    """(out, ...) float -> float32 scale per output channel, all > 0."""
    peak = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    return np.where(peak > 0, np.maximum(peak / (2 ** (bits - 1) - 1), TINY), 1.0).astype(np.float32)


def to_qdq(
    network: Network,
    weights: Weights,
    ranges: Mapping[str, ActivationQuantization],
    *,
    weight_bits: int = 8,
    flavour: Flavour = "ort",
) -> onnx.ModelProto:
    """An INT8 model with float input and output. `ranges` names every tensor that is not folded away."""
    writer = {"ort": _OrtWriter, "trt": _TrtWriter}[flavour]
    return writer(network, weights, ranges, weight_bits).write()


def quantized_inputs(network: Network, node: Node) -> tuple[str, ...]:
    """The computed tensors that TensorRT should find quantized before `node`, by its placement recommendations: the input of a
    weighted or averaging operation, and of a sum what is added to a convolution (which takes the sum in, and is not rounded before
    it)."""
    if node.op in QUANTIZED_INPUT:
        return node.inputs[:1]
    if node.op != "Add" or len(node.inputs) < 2:
        return ()
    convolutions = [name for name in node.inputs if name in network.by_name and network.by_name[name].op == "Conv"]
    taking = [name for name in convolutions if network.sole_consumer(name) is node][:1]
    return tuple(name for name in node.inputs if name not in taking)


class _Writer:
    """What the flavours share. `dequantized` maps a tensor to what its readers take."""

    def __init__(
        self, network: Network, weights: Weights, ranges: Mapping[str, ActivationQuantization], weight_bits: int
    ) -> None:
        self.network, self.weights, self.weight_bits = network, weights, weight_bits
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.ranges = dict(ranges)
        self.dequantized: dict[str, str] = {}

    def write(self) -> onnx.ModelProto:
        for name, _ in self.network.inputs:
            self._boundary(name, name)
        for node in self.network.nodes:
            self._node(node)
        return finish(self.network, self.nodes, self.initializers)

    def _node(self, node: Node) -> None:
        raise NotImplementedError

    def _weight_inputs(self, node: Node) -> list[str]:
        raise NotImplementedError

    def _boundary(self, tensor: str, source: str) -> None:
        """Quantize `source` and dequantize it again as `tensor`; readers of `tensor` take the dequantized value."""
        raise NotImplementedError

    def _inputs(self, node: Node) -> list[str]:
        inputs = [self.dequantized.get(name, name) for name in node.inputs]
        if node.op in ("Conv", "Gemm"):
            inputs += self._weight_inputs(node)
        else:  # what has no integer kernel is computed in float
            parts = [f"{node.name}.{part}" for part in WEIGHTS.get(node.op, ())]
            inputs += [self._constant(part, np.asarray(self.weights[part], np.float32)) for part in parts]
        return inputs + [self._constant(name, array) for name, array in constants_of(self.network, node).items()]

    def _quantize(self, tensor: str, source: str, scale: np.ndarray, zero: np.ndarray, axis: int | None = None) -> str:
        from onnx import helper

        constants = [self._constant(f"{tensor}.scale", scale), self._constant(f"{tensor}.zero_point", zero)]
        quantized, back = f"{tensor}.quantized", f"{tensor}.dequantized"
        for op, read, made in (("QuantizeLinear", source, quantized), ("DequantizeLinear", quantized, back)):
            self.nodes.append(helper.make_node(op, [read, *constants], [made], name=made, axis=axis))
        return back

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name


class _OrtWriter(_Writer):
    """What ONNX Runtime's CPU kernels run fully quantized: uint8 activations per tensor, int8 symmetric weights per output channel,
    int32 bias with scale s_x * s_w, and ReLU/Clip folded into the quantizer after them (the uint8 range starts at 0, so the clamp is
    free). With anything else in place a convolution falls back to float between a dequantizer and a quantizer, and INT8 ends up
    slower than FP32."""

    def _node(self, node: Node) -> None:
        if node.name in self.dequantized:
            return
        outputs = outputs_of(self.network, node)
        inputs = self._inputs(node)
        if (
            node.name in self.network.outputs
        ):  # the logits stay float: nothing is gained by rounding what is only compared
            self.nodes.extend(onnx_nodes(node, inputs, outputs))
            return
        follower = self.network.sole_consumer(node.name)
        folded = (
            node.op not in SAME_SCALE
            and follower is not None
            and follower.op in FOLDED
            and follower.name not in self.network.outputs
        )
        made = follower.name if folded and follower is not None else node.name
        if node.op in SAME_SCALE:
            self.ranges[made] = self.ranges[node.inputs[0]]
        self.nodes.extend(onnx_nodes(node, inputs, [f"{name}.float" for name in (made, *outputs[1:])]))
        for name in (made, *outputs[1:]):
            self.ranges[name] = self.ranges[made]
            self._boundary(name, f"{name}.float")

    def _boundary(self, tensor: str, source: str) -> None:
        found = self.ranges[tensor]
        scale, zero = np.asarray(found.scale, np.float32), np.asarray(found.zero_point, np.uint8)
        self.dequantized[tensor] = self._quantize(tensor, source, scale, zero)

    def _weight_inputs(self, node: Node) -> list[str]:
        from onnx import helper

        quantized, scale = quantize_weights(np.asarray(self.weights[f"{node.name}.weight"]), self.weight_bits)
        bias_scale = (scale * np.float32(self.ranges[node.inputs[0]].scale)).astype(np.float32)
        bias = np.rint(np.asarray(self.weights[f"{node.name}.bias"]) / bias_scale)
        limit = 2**31 - 1
        parts: dict[str, tuple[np.ndarray, ...]] = {
            "weight": (quantized, scale, np.zeros(len(scale), np.int8)),
            "bias": (np.clip(bias, -limit, limit).astype(np.int32), bias_scale, np.zeros(len(scale), np.int32)),
        }
        outputs = []
        for part, arrays in parts.items():
            names = [f"{node.name}.{part}.{what}" for what in ("quantized", "scale", "zero_point")]
            for name, array in zip(names, arrays, strict=True):
                self._constant(name, array)
            output = f"{node.name}.{part}.dequantized"
            self.nodes.append(helper.make_node("DequantizeLinear", names, [output], name=output, axis=0))
            outputs.append(output)
        return outputs


class _TrtWriter(_Writer):
    """What TensorRT takes: int8 activations per tensor and weights per output channel, zero points all 0, float bias. ReLU stays,
    because TensorRT fuses it with the convolution; what no operation wants quantized (`quantized_inputs`) stays float.

    Weights are float with a quantizer of their own, as NVIDIA's toolkits write them: the parsers of TensorRT 8 refuse int8 constants
    ("invalid weights type of Int8", https://github.com/NVIDIA/TensorRT/issues/2163). The engine holds them in int8."""

    def _node(self, node: Node) -> None:
        if node.op == "Part":
            return
        outputs = outputs_of(self.network, node)
        self.nodes.extend(onnx_nodes(node, self._inputs(node), outputs))
        for name in outputs:
            if node.op in SAME_SCALE:
                self.ranges[name] = self.ranges[node.inputs[0]]
            self._boundary(name, name)

    def _boundary(self, tensor: str, source: str) -> None:
        readers = (self.network.by_name[name] for name in self.network.consumers[tensor])
        if any(tensor in quantized_inputs(self.network, reader) for reader in readers):
            scale = np.asarray(self.ranges[tensor].symmetric_scale, np.float32)
            self.dequantized[tensor] = self._quantize(tensor, source, scale, np.asarray(0, np.int8))

    def _weight_inputs(self, node: Node) -> list[str]:
        weight, bias = (np.asarray(self.weights[f"{node.name}.{part}"], np.float32) for part in ("weight", "bias"))
        scale = weight_scales(weight, self.weight_bits)
        source = self._constant(f"{node.name}.weight", weight)
        zeros = np.zeros(len(scale), np.int8)
        return [self._quantize(source, source, scale, zeros, axis=0), self._constant(f"{node.name}.bias", bias)]
