"""The QDQ flavour that ONNX Runtime's CPU kernels run fully quantized ("ort").

uint8 activations per tensor, int8 symmetric weights per output channel, int32 bias with scale s_x * s_w, and ReLU/Clip folded
into the quantizer after them (the uint8 range starts at 0, so the clamp is free). With anything else in place a convolution
falls back to float between a dequantizer and a quantizer, and INT8 ends up slower than FP32.

Source: ONNX Runtime, "Quantize ONNX models" (QDQ format, reduce_range for AVX2 and AVX512 without VNNI), and its
qdq_transformer selectors for what becomes QLinearConv, QLinearAdd, QLinearGlobalAveragePool, QGemm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgenas.network.graph import Network, Node
from edgenas.onnxio.write import WEIGHTS, Weights, constants_of, finish, onnx_nodes, outputs_of

if TYPE_CHECKING:
    import onnx

FOLDED = ("Relu", "Clip")
SAME_SCALE = (
    "MaxPool",
    "Flatten",
    "Reshape",
    "Transpose",
    "Resize",
    "Split",
)  # move or select values, and keep the quantization


@dataclass(frozen=True)
class ActivationQuantization:
    """value = scale * (q - zero_point), q in 0..255."""

    scale: float
    zero_point: int


def quantize_weights(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(out, ...) float -> (int8 of the same shape, float32 scale per output channel); symmetric, |q| < 2**(bits - 1)."""
    limit = 2 ** (bits - 1) - 1
    peak = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    scale = np.where(peak > 0, peak / limit, 1.0).astype(np.float32)
    shape = (-1,) + (1,) * (weight.ndim - 1)
    return np.clip(np.rint(weight / scale.reshape(shape)), -limit, limit).astype(np.int8), scale


def to_qdq(
    network: Network, weights: Weights, ranges: Mapping[str, ActivationQuantization], *, weight_bits: int
) -> onnx.ModelProto:
    """An INT8 model with float input and output. `ranges` names every tensor that is not folded away."""
    return _Writer(network, weights, ranges, weight_bits).write()


class _Writer:
    def __init__(
        self, network: Network, weights: Weights, ranges: Mapping[str, ActivationQuantization], weight_bits: int
    ) -> None:
        self.network, self.weights, self.weight_bits = network, weights, weight_bits
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.ranges = dict(ranges)
        self.dequantized: dict[str, str] = {}

    def write(self) -> onnx.ModelProto:
        self._boundary(self.network.input_name, self.network.input_name, self.ranges[self.network.input_name])
        for node in self.network.nodes:
            if node.name not in self.dequantized:
                self._node(node)
        return finish(self.network, self.nodes, self.initializers)

    def _node(self, node: Node) -> None:
        outputs = outputs_of(self.network, node)
        is_output = node.name in self.network.outputs
        inputs = [self.dequantized[name] for name in node.inputs]
        if node.op in ("Conv", "Gemm"):
            inputs += self._weight_inputs(node)
        else:  # what has no integer kernel is computed in float, between a dequantizer and a quantizer
            parts = [f"{node.name}.{part}" for part in WEIGHTS.get(node.op, ())]
            inputs += [self._constant(part, np.asarray(self.weights[part], np.float32)) for part in parts]
        inputs += [self._constant(name, array) for name, array in constants_of(self.network, node).items()]
        if is_output:  # the logits stay float: nothing is gained by rounding what is only compared
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
            self._boundary(name, f"{name}.float", self.ranges[made])

    def _boundary(self, tensor: str, source: str, quantization: ActivationQuantization) -> None:
        """Quantize `source` and dequantize it again as `tensor`; readers of `tensor` take the dequantized value."""
        from onnx import helper

        scale = self._constant(f"{tensor}.scale", np.float32(quantization.scale))
        zero = self._constant(f"{tensor}.zero_point", np.uint8(quantization.zero_point))
        quantized, back = f"{tensor}.quantized", f"{tensor}.dequantized"
        self.nodes.append(helper.make_node("QuantizeLinear", [source, scale, zero], [quantized], name=quantized))
        self.nodes.append(helper.make_node("DequantizeLinear", [quantized, scale, zero], [back], name=back))
        self.dequantized[tensor] = back

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

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name
