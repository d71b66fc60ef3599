"""Post-training INT8: NNCF calibrates the ONNX model, and what it found is laid out anew for the runtime that will run it.

NNCF's own ONNX output leaves biases in float and activations beside their quantizers; ONNX Runtime then runs convolutions in float
and the file is slower than FP32. So only its findings are taken: activation scales and zero points, and biases corrected for
the shift that weight rounding causes (fast bias correction, Nagel et al., ICCV 2019).
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.network.graph import Network
from edgenas.onnxio.qdq import ActivationQuantization
from edgenas.onnxio.write import Weights, to_onnx

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Quantization:
    """`ranges` names every tensor of the network; `weights` are FP32, with corrected biases."""

    ranges: dict[str, ActivationQuantization]
    weights: dict[str, np.ndarray]


def calibrate(network: Network, weights: Weights, images: np.ndarray, *, weight_bits: int) -> Quantization:
    """From float32 calibration images (N, C, H, W), normalised as the network takes them."""
    model = to_onnx(network, weights)
    quantized = _nncf(model, network.input_name, images, weight_bits)
    found = _activation_ranges(quantized, network)
    observed = _observed_ranges(model, network, images)
    ranges = {name: found.get(name, observed[name]) for name in observed}
    return Quantization(ranges, {**weights, **_biases(quantized, network)})


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """NNCF reports to its makers by default, and writes an id into the user's home folder; it doesn't when the package that would do
    so can't be imported. Nothing of the user's settings is touched."""
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


def _nncf(model: onnx.ModelProto, input_name: str, images: np.ndarray, weight_bits: int) -> onnx.ModelProto:
    with contextlib.redirect_stdout(io.StringIO()), no_telemetry():
        import nncf
        from nncf.quantization.advanced_parameters import OverflowFix, QuantizationParameters
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        logging.getLogger("nncf").setLevel(logging.ERROR)
        # By default the means over images of each one's least and largest value: where images differ, most are then cut off.
        advanced = nncf.AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE if weight_bits == 7 else OverflowFix.DISABLE,
            activations_quantization_params=QuantizationParameters(per_channel=False),
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        )
        dataset = nncf.Dataset([images[i : i + 1] for i in range(len(images))], lambda image: {input_name: image})
        quantized: Any = nncf.quantize(
            model,
            dataset,
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=advanced,
        )
    result: onnx.ModelProto = quantized
    return result


def _activation_ranges(model: onnx.ModelProto, network: Network) -> dict[str, ActivationQuantization]:
    """Tensor -> what NNCF's quantizer on it says; signed 8-bit zero points are moved to the unsigned range."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    known = {network.input_name, *network.by_name}
    found = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in known:
            scale = numpy_helper.to_array(constants[node.input[1]])
            zero = numpy_helper.to_array(constants[node.input[2]])
            if scale.size == 1:
                shift = 128 if zero.dtype == np.int8 else 0
                found[node.input[0]] = ActivationQuantization(float(scale.reshape(())), int(zero.reshape(())) + shift)
    return found


def _biases(model: onnx.ModelProto, network: Network) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        f"{node.name}.bias": numpy_helper.to_array(constants[node.input[2]]).astype(np.float32)
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm") and node.name in network.by_name and node.input[2] in constants
    }


def _observed_ranges(model: onnx.ModelProto, network: Network, images: np.ndarray) -> dict[str, ActivationQuantization]:
    """Plain min and max of every tensor over the images, for tensors that NNCF put no quantizer on."""
    import onnx
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = [node.name for node in network.nodes]
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    low = {network.input_name: float(images.min())}
    high = {network.input_name: float(images.max())}
    for image in images:
        for name, value in zip(names, session.run(names, {network.input_name: image[None]}), strict=True):
            low[name] = min(low.get(name, 0.0), float(value.min()))
            high[name] = max(high.get(name, 0.0), float(value.max()))
    return {name: affine(low[name], high[name]) for name in low}


def affine(low: float, high: float) -> ActivationQuantization:
    """uint8 scale and zero point for values in low..high; 0 is always exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return ActivationQuantization(scale, round(-low / scale))
