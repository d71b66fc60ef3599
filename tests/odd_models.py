"""Small ONNX models, each with one thing that a reader may stumble over; what each is for stands in its name or docstring.

`ALL` has the models in memory, `FILES` those that only exist as files. Weights are random and the same at every call. Operators
are written as https://onnx.ai/onnx/operators/ defines them at the model's opset, 17 unless the name says otherwise.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = (1, 3, 32, 32)
CUSTOM_DOMAIN = "com.example"
ORT_REFUSES = {"custom_domain": "FancyActivation", "double": "Could not find an implementation for Conv"}
"""What ONNX Runtime does not run on a processor either, and what it says."""


class Builder:
    """A graph under construction. Every method gives the name of a tensor."""

    def __init__(
        self,
        shape: tuple[int | str, ...] = IMAGE,
        opset: int = 17,
        ir_version: int = 8,
        dtype: type[np.generic] = np.float32,
        input_dtype: type[np.generic] | None = None,
    ) -> None:
        self.opsets = [helper.make_opsetid("", opset)]
        self.ir_version = ir_version
        self.dtype = dtype
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.x = self.input("input", shape, input_dtype or dtype)

    def input(self, name: str, shape: tuple[int | str, ...], dtype: type[np.generic]) -> str:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def numbers(self, *shape: int) -> np.ndarray:
        """Random, so that a layer of these weights (its inputs in all dimensions but the first) keeps the variance."""
        scale = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        return np.asarray(self.random.normal(0, scale, shape)).astype(self.dtype)

    def positive(self, *shape: int) -> np.ndarray:
        return np.asarray(self.random.uniform(0.5, 1.5, shape)).astype(self.dtype)

    def initializer(self, array: np.ndarray) -> str:
        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        return self.initializer(self.numbers(*shape))

    def ints(self, *values: int) -> str:
        return self.initializer(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        return self.initializer(np.array(value, self.dtype))

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        return self.ops(op_type, 1, *inputs, **attributes)[0]

    def ops(self, op_type: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        stem = f"{op_type.lower()}{len(self.nodes)}"
        names = [stem] if outputs == 1 else [f"{stem}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=stem, **attributes))
        return names

    def conv(self, x: str, given: int = 3, channels: int = 8, kernel: int = 3, **attributes: Any) -> str:
        """A convolution that keeps the sides, unless `attributes` say otherwise."""
        weight = self.weight(channels, given // attributes.get("group", 1), kernel, kernel)
        if "auto_pad" not in attributes:
            attributes.setdefault("pads", [kernel // 2] * 4)
        return self.op("Conv", x, weight, self.weight(channels), **attributes)

    def finish(
        self,
        *outputs: str,
        functions: tuple[onnx.FunctionProto, ...] = (),
        shape: tuple[int, ...] | None = None,
    ) -> onnx.ModelProto:
        """The checked model. Its outputs carry shapes (`shape` where none can be inferred), its inner tensors don't, as in most
        files."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        results = [helper.make_tensor_value_info(name, kind, shape) for name in outputs]
        graph = helper.make_graph(self.nodes, "odd", self.inputs, results, self.initializers)
        model = helper.make_model(
            graph, opset_imports=self.opsets, ir_version=self.ir_version, functions=functions, producer_name="odd"
        )
        inferred = onnx.shape_inference.infer_shapes(model).graph.output
        del model.graph.output[:]
        model.graph.output.extend(inferred)
        onnx.checker.check_model(model)
        return model


def feeds(model: onnx.ModelProto, sides: int = 32) -> dict[str, np.ndarray]:
    """Random inputs; a dimension called N is 1, others without a number are `sides`."""
    random = np.random.default_rng(1)
    constants = {initializer.name for initializer in model.graph.initializer}
    found = {}
    for given in (given for given in model.graph.input if given.name not in constants):
        dims = given.type.tensor_type.shape.dim
        shape = [(1 if d.dim_param == "N" else sides) if d.dim_param else d.dim_value for d in dims]
        dtype = helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
        peak = 255 if dtype == np.uint8 else 1
        found[given.name] = (random.random(shape) * peak).astype(dtype)
    return found


# Convolutions and matrix products


def conv(**attributes: Any) -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.conv(b.x, **attributes))


def grouped_conv() -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.conv(b.op("Relu", b.conv(b.x)), 8, 16, group=4))


def shared_weight() -> onnx.ModelProto:
    """Two convolutions of different shapes read one initializer, as the shared heads of detectors do."""
    b = Builder()
    weight, bias = b.weight(3, 3, 3, 3), b.weight(3)
    large = b.op("Conv", b.x, weight, bias, pads=[1] * 4)
    small = b.op("Conv", b.op("MaxPool", b.x, kernel_shape=[2, 2], strides=[2, 2]), weight, bias, pads=[1] * 4)
    return b.finish(large, small)


def conv1d() -> onnx.ModelProto:
    b = Builder((1, 3, 64))
    return b.finish(b.op("Conv", b.x, b.weight(8, 3, 5), strides=[2], pads=[2, 2]))


def conv3d() -> onnx.ModelProto:
    b = Builder((1, 3, 4, 16, 16))
    return b.finish(b.op("Conv", b.x, b.weight(8, 3, 3, 3, 3), pads=[1] * 6))


def computed_weight() -> onnx.ModelProto:
    """The weights are not a constant: a small network computes them from the image (dynamic convolution)."""
    b = Builder()
    pooled = b.op("Flatten", b.op("GlobalAveragePool", b.x))
    weights = b.op("Reshape", b.op("MatMul", pooled, b.weight(3, 24)), b.ints(8, 3, 1, 1))
    return b.finish(b.op("Conv", b.x, weights))


def conv_transpose_output_padding() -> onnx.ModelProto:
    b = Builder()
    attributes = {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}
    return b.finish(b.op("ConvTranspose", b.conv(b.x), b.weight(8, 4, 3, 3), b.weight(4), **attributes))


def conv_transpose_output_shape() -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.op("ConvTranspose", b.x, b.weight(3, 4, 3, 3), strides=[2, 2], output_shape=[64, 64]))


def conv_batch_norm() -> onnx.ModelProto:
    b = Builder()
    scale, shift, mean, var = b.positive(8), b.numbers(8), b.numbers(8), b.positive(8)
    y = b.op("Conv", b.x, b.weight(8, 3, 3, 3))
    constants = (b.initializer(array) for array in (scale, shift, mean, var))
    return b.finish(b.op("Relu", b.op("BatchNormalization", y, *constants, epsilon=1e-3)))


def conv_mul_add() -> onnx.ModelProto:
    """BatchNorm or a Caffe Scale layer as two elementwise nodes with constants."""
    b = Builder()
    scaled = b.op("Mul", b.conv(b.x), b.initializer(b.positive(1, 8, 1, 1)))
    return b.finish(b.op("Relu", b.op("Add", b.weight(8, 1, 1), scaled)))


def matmul_add() -> onnx.ModelProto:
    b = Builder()
    x = b.op("Flatten", b.op("GlobalAveragePool", b.conv(b.x)))
    return b.finish(b.op("Add", b.op("MatMul", x, b.weight(8, 10)), b.weight(10)))


def matmul_of_tensors(dtype: type[np.generic] = np.float32) -> onnx.ModelProto:
    """Attention: both sides of the products are computed."""
    b = Builder((1, 16, 24), dtype=dtype)
    query, key, value = (b.op("MatMul", b.x, b.weight(24, 24)) for _ in range(3))
    scores = b.op("MatMul", query, b.op("Transpose", key, perm=[0, 2, 1]))
    return b.finish(b.op("MatMul", b.op("Softmax", scores, axis=-1), value))


def gemm(**attributes: Any) -> onnx.ModelProto:
    """A classifier whose Gemm transposes as `attributes` say, or not at all."""
    b = Builder()
    x = b.op("Flatten", b.op("GlobalAveragePool", b.conv(b.x)))
    x = b.op("Transpose", x, perm=[1, 0]) if attributes.get("transA") else x
    return b.finish(
        b.op("Gemm", x, b.weight(*((10, 8) if attributes.get("transB") else (8, 10))), b.weight(10), **attributes)
    )


# Shapes: joining, splitting, resizing


def split_concat() -> onnx.ModelProto:
    b = Builder()
    small, large = b.ops("Split", 2, b.conv(b.x), b.ints(2, 6), axis=1)
    return b.finish(b.op("Concat", large, b.op("Relu", small), axis=1))


def split_even_opset18() -> onnx.ModelProto:
    b = Builder(opset=18)
    return b.finish(b.op("Concat", *reversed(b.ops("Split", 3, b.x, axis=1, num_outputs=3)), axis=1))


def slice_concat() -> onnx.ModelProto:
    """YOLOv5's focus layer: four strided slices of the image joined."""
    b = Builder()
    parts = [
        b.op("Slice", b.x, b.ints(row, column), b.ints(2**31 - 1, 2**31 - 1), b.ints(2, 3), b.ints(2, 2))
        for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))
    ]
    return b.finish(b.conv(b.op("Concat", *parts, axis=1), 12))


def resize_scales() -> onnx.ModelProto:
    b = Builder()
    scales = b.initializer(np.array([1, 1, 2, 2], np.float32))
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return b.finish(b.op("Resize", b.conv(b.x), "", scales, **attributes))


def resize_sizes(mode: str) -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.op("Resize", b.conv(b.x), "", "", b.ints(1, 8, 48, 80), mode=mode))


def upsample_opset9() -> onnx.ModelProto:
    b = Builder(opset=9, ir_version=4)
    return b.finish(b.op("Upsample", b.conv(b.x), b.initializer(np.array([1, 1, 2, 2], np.float32)), mode="nearest"))


def channel_shuffle() -> onnx.ModelProto:
    b = Builder()
    x = b.op("Reshape", b.conv(b.x), b.ints(1, 2, 4, 32, 32))
    return b.finish(b.op("Reshape", b.op("Transpose", x, perm=[0, 2, 1, 3, 4]), b.ints(0, -1, 32, 32)))


def depth_to_space() -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.op("DepthToSpace", b.conv(b.x, channels=12), blocksize=2, mode="CRD"))


def pad_before_conv() -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.conv(b.op("Pad", b.x, b.ints(0, 0, 0, 0, 0, 0, 1, 1)), strides=[2, 2], pads=[0] * 4))


def reflection_pad() -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.conv(b.op("Pad", b.x, b.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"), pads=[0] * 4))


def pool(op_type: str, **attributes: Any) -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.op(op_type, b.conv(b.x), kernel_shape=[3, 3], strides=[2, 2], **attributes))


def flatten_by_shape() -> onnx.ModelProto:
    """`x.view(x.size(0), -1)` as the exporter by tracing writes it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    b = Builder()
    x = b.op("GlobalAveragePool", b.conv(b.x))
    batch = b.op("Gather", b.op("Shape", x), b.initializer(np.array(0, np.int64)), axis=0)
    shape = b.op("Concat", b.op("Unsqueeze", batch, b.ints(0)), b.ints(-1), axis=0)
    return b.finish(b.op("Gemm", b.op("Reshape", x, shape), b.weight(10, 8), b.weight(10), transB=1))


def squeeze_unsqueeze() -> onnx.ModelProto:
    b = Builder()
    squeezed = b.op("Squeeze", b.op("GlobalAveragePool", b.conv(b.x)), b.ints(2, 3))
    return b.finish(b.op("Unsqueeze", b.op("MatMul", squeezed, b.weight(8, 4)), b.ints(2, 3)))


# Blocks, norms, activations


def se_block(opset: int) -> onnx.ModelProto:
    """Squeeze and excite by ReduceMean, whose axes are an attribute up to opset 17, and a Mul that broadcasts."""
    b = Builder(opset=opset)
    x = b.conv(b.x)
    pooled = b.op("ReduceMean", x, axes=[2, 3]) if opset < 18 else b.op("ReduceMean", x, b.ints(2, 3))
    gate = b.op("Sigmoid", b.conv(b.op("Relu", b.conv(pooled, 8, 2, 1)), 2, 8, 1))
    return b.finish(b.op("Mul", x, gate))


def residual_of_three() -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.op("Relu", b.op("Sum", b.conv(b.x), b.conv(b.x, kernel=1), b.conv(b.x, kernel=5))))


def lrn() -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.op("LRN", b.conv(b.x), size=5, alpha=1e-4, beta=0.75))


def instance_normalization() -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.op("InstanceNormalization", b.conv(b.x), b.initializer(b.positive(8)), b.weight(8)))


def group_normalization() -> onnx.ModelProto:
    """GroupNorm as PyTorch exports it below opset 18: an InstanceNormalization of the groups."""
    b = Builder()
    grouped = b.op("Reshape", b.conv(b.x), b.ints(0, 2, -1))
    ones, zeros = b.initializer(np.ones(2, np.float32)), b.initializer(np.zeros(2, np.float32))
    normed = b.op("Reshape", b.op("InstanceNormalization", grouped, ones, zeros), b.ints(1, 8, 32, 32))
    return b.finish(b.op("Add", b.op("Mul", normed, b.initializer(b.positive(8, 1, 1))), b.weight(8, 1, 1)))


def layer_normalization() -> onnx.ModelProto:
    """Over the channels, as ConvNeXt does: there and back through NHWC."""
    b = Builder()
    x = b.op("Transpose", b.conv(b.x), perm=[0, 2, 3, 1])
    x = b.op("LayerNormalization", x, b.initializer(b.positive(8)), b.weight(8), axis=-1, epsilon=1e-6)
    return b.finish(b.op("Transpose", x, perm=[0, 3, 1, 2]))


def activation(op_type: str, *constants: float, **attributes: Any) -> onnx.ModelProto:
    """A convolution and an activation, whose further inputs are the scalars `constants`."""
    b = Builder()
    return b.finish(b.op(op_type, b.conv(b.x), *map(b.scalar, constants), **attributes))


def prelu() -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.op("PRelu", b.conv(b.x), b.initializer(b.positive(8, 1, 1))))


def gelu_by_erf() -> onnx.ModelProto:
    b = Builder()
    x = b.conv(b.x)
    erf = b.op("Erf", b.op("Div", x, b.scalar(math.sqrt(2))))
    return b.finish(b.op("Mul", b.op("Mul", x, b.op("Add", erf, b.scalar(1))), b.scalar(0.5)))


def silu() -> onnx.ModelProto:
    b = Builder()
    x = b.conv(b.x)
    return b.finish(b.op("Mul", x, b.op("Sigmoid", x)))


def hard_swish_by_clip() -> onnx.ModelProto:
    """x * relu6(x + 3) / 6, as exported below opset 14."""
    b = Builder(opset=13, ir_version=7)
    x = b.conv(b.x)
    gate = b.op("Clip", b.op("Add", x, b.scalar(3)), b.scalar(0), b.scalar(6))
    return b.finish(b.op("Div", b.op("Mul", x, gate), b.scalar(6)))


def clip_attributes_opset10() -> onnx.ModelProto:
    b = Builder(opset=10, ir_version=5)
    return b.finish(b.op("Clip", b.conv(b.x), min=0.0, max=6.0))


def clip_below_only() -> onnx.ModelProto:
    b = Builder()
    return b.finish(b.op("Clip", b.conv(b.x), b.scalar(0)))


# Inputs, outputs, types


def sized(*shape: int | str) -> onnx.ModelProto:
    """A network that takes images of any size, its input declared with `shape`."""
    b = Builder(shape)
    x = b.op("GlobalAveragePool", b.op("Relu", b.conv(b.x, strides=[2, 2])))
    return b.finish(b.op("Gemm", b.op("Flatten", x), b.weight(10, 8), b.weight(10), transB=1))


def two_inputs() -> onnx.ModelProto:
    b = Builder()
    other = b.input("depth", (1, 1, 32, 32), np.float32)
    return b.finish(b.op("Add", b.conv(b.x), b.conv(other, 1)))


def two_outputs() -> onnx.ModelProto:
    """One output feeds the other."""
    b = Builder()
    features = b.op("Relu", b.conv(b.x))
    return b.finish(features, b.op("Flatten", b.op("GlobalAveragePool", features)))


def unused_branch() -> onnx.ModelProto:
    """A convolution and an initializer that no output needs."""
    b = Builder()
    y = b.conv(b.x)
    b.conv(b.x, kernel=5)
    b.weight(4)
    return b.finish(y)


def initializers_as_inputs() -> onnx.ModelProto:
    """IR version 3: weights are listed among the inputs."""
    b = Builder(opset=9, ir_version=3)
    y = b.op("Relu", b.conv(b.x))
    b.inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in b.initializers]
    return b.finish(y)


def uint8_nhwc_input() -> onnx.ModelProto:
    """The camera's image as it is: cast, laid out and normalised in the graph."""
    b = Builder((1, 32, 32, 3), input_dtype=np.uint8)
    x = b.op("Transpose", b.op("Cast", b.x, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    mean, std = (
        b.initializer(np.array(values, np.float32).reshape(3, 1, 1)) for values in ([124, 116, 104], [58, 57, 57])
    )
    return b.finish(b.conv(b.op("Div", b.op("Sub", x, mean), std)))


def typed(dtype: type[np.generic]) -> onnx.ModelProto:
    """The whole model in another float type."""
    b = Builder(dtype=dtype)
    x = b.op("Flatten", b.op("GlobalAveragePool", b.op("Relu", b.conv(b.x))))
    return b.finish(b.op("Gemm", x, b.weight(10, 8), b.weight(10), transB=1))


# Nodes that compute nothing, constants, control flow


def dropout() -> onnx.ModelProto:
    """With its mask as a second output that nobody reads, before a Relu."""
    b = Builder()
    kept, _ = b.ops("Dropout", 2, b.conv(b.x), b.scalar(0.5))
    return b.finish(b.op("Relu", kept))


def identity() -> onnx.ModelProto:
    """Of a weight, in the middle and at the output."""
    b = Builder()
    y = b.op("Conv", b.x, b.op("Identity", b.weight(8, 3, 3, 3)))
    return b.finish(b.op("Identity", b.op("Relu", b.op("Identity", y))))


def constant_nodes() -> onnx.ModelProto:
    """Constant in every numeric form: value, value_float, value_floats, value_int, value_ints, sparse_value."""
    b = Builder()
    y = b.op("Conv", b.x, b.op("Constant", value=numpy_helper.from_array(b.numbers(8, 3, 3, 3))), pads=[1] * 4)
    y = b.op("Mul", y, b.op("Constant", value_float=0.5))
    y = b.op("Reshape", y, b.op("Constant", value_ints=[1, 8, -1]))
    y = b.op("Gather", y, b.op("Constant", value_int=3), axis=1)
    values = helper.make_tensor("values", TensorProto.FLOAT, [2], [0.25, -0.25])
    where = helper.make_tensor("where", TensorProto.INT64, [2], [7, 900])
    y = b.op("Add", y, b.op("Constant", sparse_value=helper.make_sparse_tensor(values, where, [1024])))
    return b.finish(b.op("Mul", y, b.op("Constant", value_floats=[2.0])))


def constant_of_shape() -> onnx.ModelProto:
    """Weights that a node makes, as in the light models of the onnx package."""
    b = Builder()
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.02])
    return b.finish(b.op("Conv", b.x, b.op("ConstantOfShape", b.ints(8, 3, 3, 3), value=value)))


def lstm() -> onnx.ModelProto:
    b = Builder((16, 1, 12))
    return b.finish(*b.ops("LSTM", 3, b.x, b.weight(1, 32, 12), b.weight(1, 32, 8), b.weight(1, 64), hidden_size=8)[:1])


def branches() -> onnx.ModelProto:
    """An If whose condition depends on the input; its branches read a tensor of the graph around them."""
    b = Builder()
    x = b.conv(b.x)
    bright = b.op("Greater", b.op("ReduceMean", x, keepdims=0), b.scalar(0))
    shape = helper.make_tensor_value_info("result", TensorProto.FLOAT, [1, 8, 32, 32])
    then, otherwise = (
        helper.make_graph([helper.make_node(op_type, [x], ["result"])], op_type, [], [shape])
        for op_type in ("Relu", "Neg")
    )
    return b.finish(b.op("If", bright, then_branch=then, else_branch=otherwise))


def custom_domain() -> onnx.ModelProto:
    b = Builder()
    b.opsets.append(helper.make_opsetid(CUSTOM_DOMAIN, 1))
    return b.finish(b.op("FancyActivation", b.conv(b.x), domain=CUSTOM_DOMAIN), shape=(1, 8, 32, 32))


def model_function() -> onnx.ModelProto:
    """An operator that the file itself defines, as files of PyTorch's newer exporter may."""
    b = Builder()
    b.opsets.append(helper.make_opsetid(CUSTOM_DOMAIN, 1))
    nodes = [helper.make_node("Sigmoid", ["x"], ["gate"]), helper.make_node("Mul", ["x", "gate"], ["y"])]
    function = helper.make_function(CUSTOM_DOMAIN, "Silu", ["x"], ["y"], nodes, b.opsets[:1])
    return b.finish(b.op("Silu", b.conv(b.x), domain=CUSTOM_DOMAIN), functions=(function,))


def quantized(form: str) -> onnx.ModelProto:
    """INT8 by ONNX Runtime's own tool, its `form` QDQ or QOperator; weights per channel."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    b = Builder()
    x = b.op("GlobalAveragePool", b.conv(b.op("Relu", b.conv(b.x)), 8, 8))
    model = b.finish(b.op("Gemm", b.op("Flatten", x), b.weight(10, 8), b.weight(10), transB=1))
    images = iter([feeds(model)])
    reader = SimpleNamespace(get_next=lambda: next(images, None))  # all that is asked of a CalibrationDataReader
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        quantize_static(model, str(path), reader, quant_format=QuantFormat[form], per_channel=True)
        return onnx.load(path)


ALL: dict[str, Callable[[], onnx.ModelProto]] = {
    "grouped_conv": grouped_conv,
    "depthwise_multiplier_conv": partial(conv, channels=6, group=3),
    "dilated_conv": partial(conv, dilations=[2, 2], pads=[2] * 4),
    "asymmetric_pads": partial(conv, strides=[2, 2], pads=[0, 1, 1, 0]),
    "rectangular_stride": partial(conv, strides=[2, 1]),
    "auto_pad_same_upper": partial(conv, strides=[2, 2], auto_pad="SAME_UPPER"),
    "auto_pad_same_lower": partial(conv, strides=[2, 2], auto_pad="SAME_LOWER"),
    "auto_pad_valid": partial(conv, auto_pad="VALID"),
    "shared_weight": shared_weight,
    "conv1d": conv1d,
    "conv3d": conv3d,
    "computed_weight": computed_weight,
    "conv_transpose_output_padding": conv_transpose_output_padding,
    "conv_transpose_output_shape": conv_transpose_output_shape,
    "conv_batch_norm": conv_batch_norm,
    "conv_mul_add": conv_mul_add,
    "matmul_add": matmul_add,
    "matmul_of_tensors": matmul_of_tensors,
    "matmul_of_doubles": partial(matmul_of_tensors, np.float64),
    "gemm": gemm,
    "gemm_trans_a": partial(gemm, transA=1),
    "gemm_trans_b_alpha_beta": partial(gemm, transB=1, alpha=0.5, beta=2.0),
    "split_concat": split_concat,
    "split_even_opset18": split_even_opset18,
    "slice_concat": slice_concat,
    "resize_nearest_scales": resize_scales,
    "resize_nearest_sizes": partial(resize_sizes, "nearest"),
    "resize_linear_sizes": partial(resize_sizes, "linear"),
    "upsample_opset9": upsample_opset9,
    "channel_shuffle": channel_shuffle,
    "depth_to_space": depth_to_space,
    "pad_before_conv": pad_before_conv,
    "reflection_pad": reflection_pad,
    "max_pool_ceil": partial(pool, "MaxPool", ceil_mode=1),
    "average_pool_count_include_pad": partial(pool, "AveragePool", pads=[1] * 4, count_include_pad=1),
    "flatten_by_shape": flatten_by_shape,
    "squeeze_unsqueeze": squeeze_unsqueeze,
    "se_block": partial(se_block, 17),
    "se_block_opset18": partial(se_block, 18),
    "residual_of_three": residual_of_three,
    "lrn": lrn,
    "instance_normalization": instance_normalization,
    "group_normalization": group_normalization,
    "layer_normalization": layer_normalization,
    "softmax": partial(activation, "Softmax", axis=1),
    "leaky_relu": partial(activation, "LeakyRelu", alpha=0.1),
    "prelu": prelu,
    "elu": partial(activation, "Elu"),
    "selu": partial(activation, "Selu"),
    "sigmoid": partial(activation, "Sigmoid"),
    "tanh": partial(activation, "Tanh"),
    "softplus": partial(activation, "Softplus"),
    "gelu_by_erf": gelu_by_erf,
    "silu": silu,
    "hard_swish": partial(activation, "HardSwish"),
    "hard_swish_by_clip": hard_swish_by_clip,
    "hard_sigmoid": partial(activation, "HardSigmoid", alpha=1 / 6),
    "clip_inputs": partial(activation, "Clip", 0.0, 6.0),
    "clip_below_only": clip_below_only,
    "clip_attributes_opset10": clip_attributes_opset10,
    "batch_of_4": partial(sized, 4, 3, 32, 32),
    "dynamic_batch": partial(sized, "N", *IMAGE[1:]),
    "dynamic_sides": partial(sized, 1, 3, "height", "width"),
    "dynamic_everything": partial(sized, "N", 3, "height", "width"),
    "two_inputs": two_inputs,
    "two_outputs": two_outputs,
    "unused_branch": unused_branch,
    "initializers_as_inputs": initializers_as_inputs,
    "uint8_nhwc_input": uint8_nhwc_input,
    "double": partial(typed, np.float64),
    "half": partial(typed, np.float16),
    "dropout": dropout,
    "identity": identity,
    "constant_nodes": constant_nodes,
    "constant_of_shape": constant_of_shape,
    "lstm": lstm,
    "if": branches,
    "custom_domain": custom_domain,
    "model_function": model_function,
    "qdq": partial(quantized, "QDQ"),
    "qoperator": partial(quantized, "QOperator"),
}


# Models as files


def external_data(folder: Path) -> Path:
    """Weights in a file beside the model."""
    path = folder / "external.onnx"
    onnx.save_model(sized(*IMAGE), path, save_as_external_data=True, location="external.data", size_threshold=0)
    return path


def external_data_missing(folder: Path) -> Path:
    """The same, copied without the file beside it."""
    path = external_data(folder)
    (folder / "external.data").unlink()
    return path


def truncated(folder: Path) -> Path:
    """A download that broke off."""
    path = folder / "truncated.onnx"
    content = sized(*IMAGE).SerializeToString()
    path.write_bytes(content[: len(content) // 2])
    return path


def not_onnx(folder: Path) -> Path:
    """A PNG image by the name of a model."""
    path = folder / "image.onnx"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    return path


def empty(folder: Path) -> Path:
    path = folder / "empty.onnx"
    path.write_bytes(b"")
    return path


FILES: dict[str, Callable[[Path], Path]] = {
    "external_data": external_data,
    "external_data_missing": external_data_missing,
    "truncated": truncated,
    "not_onnx": not_onnx,
    "empty": empty,
}
"""Each writes into an empty folder. Only `external_data` can be run."""
