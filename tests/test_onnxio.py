"""Files: a network written and read back, what ONNX Runtime makes of it, its INT8 flavour, and what can't be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgenas.errors import EdgenasError, InputError
from edgenas.measure import untrained
from edgenas.nets.module import NetworkModule
from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network, Node
from edgenas.onnxio.batch import with_batch
from edgenas.onnxio.qdq import ActivationQuantization, quantize_weights, to_qdq
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.onnxio.read import read, read_model, read_weights
from edgenas.onnxio.size import file_bytes
from edgenas.onnxio.write import to_onnx
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces.mobile import for_data
from tests.odd_models import ALL as ODD
from tests.odd_models import ORT_REFUSES

SPACES = (for_data(28, 1, 10), for_data(32, 3, 10), for_data(96, 3, 10))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    space = draw(st.sampled_from(SPACES))
    return space.network(space.subnet(draw(st.tuples(*(st.integers(0, count - 1) for count in space.radix())))))


def mixed() -> Network:
    """A small net with every operator that the torch module and the writers share."""
    b = Builder((1, 3, 16, 16))
    x = b.activation("stem/swish", b.conv("stem/conv", INPUT, 16, 3, 2), "HardSwish")
    y = b.activation("relu1", b.conv("expand", x, 32))
    y = b.activation("relu2", b.conv("depthwise", y, 32, 3, groups=32))
    x = b.activation("relu3", b.add("add", b.conv("project", y, 16), x))
    x = b.max_pool("pool", x, kernel=2, stride=2)
    x = b.activation("relu4", b.linear("hidden", b.flatten("flatten", x), 24))
    return b.finish(b.linear("logits", x, 10))


def sampled(count: int) -> Iterator[Network]:
    rng = np.random.default_rng(0)
    for i in range(count):
        space = SPACES[i % len(SPACES)]
        yield space.network(space.sample(rng))


def run(model: onnx.ModelProto, image: np.ndarray, optimized: Path | None = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def images(network: Network, count: int, seed: int = 0) -> np.ndarray:
    shape = (count, *network.input_shape)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class TestWrite:
    @settings(max_examples=30)
    @given(network=networks())
    def test_what_is_written_is_read_back(self, network: Network) -> None:
        weights = random_weights(network)
        model = to_onnx(network, weights)
        assert read(model) == network
        found = read_weights(model)
        assert found.keys() == weights.keys()
        assert all(np.array_equal(found[name], weights[name]) for name in weights)

    def test_every_operator_is_read_back(self) -> None:
        attributes = (("ceil_mode", 1), ("count_include_pad", 1), ("kernel_shape", (3, 3)), ("pads", (1, 0, 1, 1)))
        nodes = (
            Node("sigmoid", "Sigmoid", (INPUT,), (1, 4, 8, 8)),
            Node("gate", "HardSigmoid", ("sigmoid",), (1, 4, 8, 8), (("alpha", 0.1), ("beta", 0.25))),
            Node("default", "HardSigmoid", ("gate",), (1, 4, 8, 8)),
            Node("swish", "HardSwish", ("default",), (1, 4, 8, 8)),
            Node("sum", "Add", ("swish", "swish"), (1, 4, 8, 8)),
            Node("average", "AveragePool", ("sum",), (1, 4, 5, 4), (*attributes, ("strides", (2, 2)))),
            Node("pool", "GlobalAveragePool", ("average",), (1, 4, 1, 1)),
        )
        network = Network(((INPUT, (1, 4, 8, 8)),), nodes, ("pool",))
        assert read(to_onnx(network, {})) == network
        assert read(to_onnx(mixed(), random_weights(mixed()))) == mixed()

    def test_a_clip_is_read_back(self) -> None:
        relu6 = Node("relu6", "Clip", (INPUT,), (1, 4), (("max", 6.0), ("min", 0.0)))
        network = Network(((INPUT, (1, 4)),), (relu6,), ("relu6",))
        assert read(to_onnx(network, {})) == network

    @pytest.mark.parametrize("write", ["fp32", "int8"])
    def test_old_runtimes_load_the_file(self, write: str) -> None:
        model = _fp32(mixed()) if write == "fp32" else _int8(mixed())
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 13)]
        assert model.ir_version == 7
        assert (model.graph.input[0].name, model.graph.output[0].name) == ("input", "logits")

    def test_onnx_runtime_runs_what_torch_runs(self) -> None:
        for seed, network in enumerate([mixed(), *sampled(6)]):
            module = _trained_looking(network, seed)
            image = images(network, 1, seed)[0]
            with torch.no_grad():
                expected = module(torch.from_numpy(image)).numpy()
            found = run(to_onnx(network, module.folded_weights()), image)
            assert expected.std() > 0.01, "logits that are all alike show nothing"
            assert np.abs(found - expected).max() < 1e-4


class TestQdq:
    @pytest.mark.parametrize(("bits", "limit"), [(7, 63), (8, 127)])
    @settings(max_examples=10)
    @given(network=networks())
    def test_what_lies_in_the_file(self, bits: int, limit: int, network: Network) -> None:
        model = to_qdq(network, random_weights(network), random_ranges(network), weight_bits=bits)
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        weights = [arrays[f"{node.name}.weight.quantized"] for node in network.weighted()]
        assert all(weight.dtype == np.int8 and np.abs(weight.astype(int)).max() == limit for weight in weights)
        # every channel uses the range: its scale is its own
        assert all((np.abs(w.reshape(len(w), -1).astype(int)).max(axis=1) == limit).all() for w in weights)
        scales = {name: array for name, array in arrays.items() if name.endswith(".scale")}
        assert all(array.dtype == np.float32 and (array > 0).all() for array in scales.values())
        for node in network.weighted():
            assert arrays[f"{node.name}.bias.quantized"].dtype == np.int32
            in_scale = arrays[f"{_quantized_input(model, node.name)}.scale"]
            expected = arrays[f"{node.name}.weight.scale"] * in_scale
            assert np.allclose(arrays[f"{node.name}.bias.scale"], expected, rtol=1e-6)
        zero_points = {name: array for name, array in arrays.items() if name.endswith(".zero_point")}
        activations = [array for name, array in zero_points.items() if ".weight." not in name and ".bias." not in name]
        assert len(activations) > len(weights)
        assert all(array.dtype == np.uint8 and array.shape == () for array in activations)
        ops = {node.op_type for node in model.graph.node}
        assert not ops & {"Relu", "Clip"}, "they are folded into the quantizers"

    def test_weights_are_within_half_a_step(self) -> None:
        weight = np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32)
        weight[2] = 0  # a dead channel
        for bits in (7, 8):
            quantized, scale = quantize_weights(weight, bits)
            assert (scale > 0).all()
            step = scale.reshape(-1, 1, 1, 1)
            assert (np.abs(quantized * step - weight) <= step * 0.5001).all()

    @pytest.mark.parametrize("px_index", range(len(SPACES)))
    def test_every_convolution_runs_quantized(self, px_index: int, tmp_path: Path) -> None:
        space, rng = SPACES[px_index], np.random.default_rng(2)
        for i in range(4):
            network = space.network(space.sample(rng))
            run(_int8(network, seed=i), images(network, 1)[0], tmp_path / "optimized.onnx")
            ops = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
            assert "Conv" not in ops
            assert ops.count("QLinearConv") == sum(node.op == "Conv" for node in network.nodes)

    def test_int8_follows_fp32(self) -> None:
        for network in [mixed(), *sampled(3)]:
            weights = random_weights(network)
            float_model = to_onnx(network, weights)
            calibration, test = images(network, 24, seed=1), images(network, 24, seed=2)
            int8 = to_qdq(network, weights, _true_ranges(float_model, calibration), weight_bits=7)
            expected = np.concatenate([run(float_model, image) for image in test])
            found = np.concatenate([run(int8, image) for image in test])
            assert _sqnr_db(expected, found) > 20

    def test_what_is_returned_stays_float(self) -> None:
        b = Builder((1, 3, 8, 8))
        network = b.finish(b.activation("relu", b.conv("conv", INPUT, 4, 3)))
        model = _int8(network)
        assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
        assert model.graph.node[-1].op_type == "Relu"

    def test_a_relu_after_a_pool_is_not_lost(self) -> None:
        b = Builder((1, 3, 8, 8))
        x = b.activation("relu", b.max_pool("pool", b.conv("conv", INPUT, 8, 3), 2, 2))
        network = b.finish(b.linear("linear", b.flatten("flatten", x), 10))
        weights = random_weights(network)
        weights["conv.bias"] -= 3  # most values are below zero, so that what the ReLU does shows
        float_model = to_onnx(network, weights)
        ranges = _true_ranges(float_model, images(network, 24, seed=1))
        int8 = to_qdq(network, weights, ranges, weight_bits=7)
        test = images(network, 24, seed=2)
        expected = np.concatenate([run(float_model, image) for image in test])
        assert _sqnr_db(expected, np.concatenate([run(int8, image) for image in test])) > 20


def _fp32(network: Network) -> onnx.ModelProto:
    return to_onnx(network, random_weights(network))


def _int8(network: Network, seed: int = 0) -> onnx.ModelProto:
    return to_qdq(network, random_weights(network, seed), random_ranges(network, seed), weight_bits=7)


def _quantized_input(model: onnx.ModelProto, name: str) -> str:
    """The tensor whose quantization the Conv or Gemm `name` reads."""
    node = next(node for node in model.graph.node if node.name == name)
    return node.input[0].removesuffix(".dequantized")


def _trained_looking(network: Network, seed: int) -> NetworkModule:
    """In evaluation mode, with the BatchNorm statistics of a net that saw data."""
    torch.manual_seed(seed)
    module = NetworkModule(network).eval()
    with torch.no_grad():
        for layer in module.bn_layers():
            layer.gamma.uniform_(0.5, 1.5)
            layer.beta.normal_(0, 0.3)
            layer.mean.normal_(0, 0.5)
            layer.var.uniform_(0.5, 2.0)
        for layer in module.layers.values():
            if hasattr(layer, "bias"):
                layer.weight.normal_(0, 0.2)
                layer.bias.normal_(0, 0.1)
    return module


def _true_ranges(model: onnx.ModelProto, calibration: np.ndarray) -> dict[str, ActivationQuantization]:
    """From the least and greatest value that each tensor has on the calibration images."""
    shown = onnx.ModelProto()
    shown.CopyFrom(onnx.shape_inference.infer_shapes(model))
    shown.graph.output.extend(shown.graph.value_info)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    names = [source, *(output.name for output in session.get_outputs())]
    rows = [[image, *session.run(None, {source: image})] for image in calibration]
    found = {}
    for name, *values in zip(names, *rows, strict=True):
        low, high = min(0.0, *(v.min() for v in values)), max(1e-3, *(v.max() for v in values))
        scale = float(high - low) / 255
        found[name] = ActivationQuantization(scale, round(-low / scale))
    return found


def _sqnr_db(expected: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()))


def model_of(
    nodes: list[onnx.NodeProto],
    initializers: dict[str, np.ndarray] | None = None,
    shape: tuple[int | str, ...] = (1, 3, 8, 8),
    opset: int = 14,
) -> onnx.ModelProto:
    """A file as another program might write it, from `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8)
    y = onnx.shape_inference.infer_shapes(model).graph.output[0]
    if not y.type.tensor_type.HasField("shape"):  # of a graph that is wrong: any
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])
    model.graph.output[0].CopyFrom(y)
    return model


WEIGHT = np.ones((4, 3, 3, 3), np.float32)
REFUSED = {"batch_of_4", "dynamic_sides", "dynamic_everything", "if"}


class TestRead:
    def test_defaults_are_spelt_out(self) -> None:
        network = read(model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": WEIGHT}))
        expected = {"dilations": (1, 1), "group": 1, "kernel_shape": (3, 3), "pads": (0,) * 4, "strides": (1, 1)}
        assert network.nodes == (Node("y", "Conv", ("x",), (1, 4, 6, 6), tuple(expected.items())),)

    @pytest.mark.parametrize(
        ("auto_pad", "side", "stride", "pads"),
        [
            ("SAME_UPPER", 8, 2, (0, 0, 1, 1)),
            ("SAME_LOWER", 8, 2, (1, 1, 0, 0)),
            ("SAME_UPPER", 7, 2, (1, 1, 1, 1)),
            ("SAME_UPPER", 8, 1, (1, 1, 1, 1)),
            ("VALID", 8, 1, (0, 0, 0, 0)),
        ],
    )
    @pytest.mark.parametrize("op", ["Conv", "MaxPool"])
    def test_automatic_padding_becomes_pads(
        self, op: str, auto_pad: str, side: int, stride: int, pads: tuple[int, ...]
    ) -> None:
        inputs = ["x", "w"] if op == "Conv" else ["x"]
        node = helper.make_node(op, inputs, ["y"], auto_pad=auto_pad, strides=[stride] * 2, kernel_shape=[3, 3])
        model = model_of([node], {"w": WEIGHT} if op == "Conv" else {}, (1, 3, side, side))
        network = read(model)
        assert network.nodes[0].attribute("pads") == pads
        image = np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)
        again = to_onnx(network, read_weights(model))
        assert np.array_equal(run(model, image), run(again, image))

    def test_a_bias_may_be_missing(self) -> None:
        weights = read_weights(model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": WEIGHT}))
        assert {name: array.shape for name, array in weights.items()} == {"y.weight": (4, 3, 3, 3), "y.bias": (4,)}
        assert not weights["y.bias"].any()

    def test_bounds_of_a_clip_are_inputs_or_attributes(self) -> None:
        constant = helper.make_node("Constant", [], ["six"], value=numpy_helper.from_array(np.float32(6), "six"))
        clip = helper.make_node("Clip", ["x", "", "six"], ["y"])
        assert read(model_of([constant, clip])).nodes == (Node("y", "Clip", ("x",), (1, 3, 8, 8), (("max", 6.0),)),)
        old = model_of([helper.make_node("Clip", ["x"], ["y"], min=0.1, max=6.0)], opset=10)
        assert read(old).nodes[0].attributes == (("max", 6.0), ("min", 0.1))

    @pytest.mark.parametrize("order", [["x", "gate"], ["gate", "x"]])
    def test_the_halves_of_a_hard_swish_are_put_together(self, order: list[str]) -> None:
        gate = helper.make_node("HardSigmoid", ["x"], ["gate"], alpha=1 / 6)
        swish = Node("y", "HardSwish", ("x",), (1, 3, 8, 8))
        assert read(model_of([gate, helper.make_node("Mul", order, ["y"])])).nodes == (swish,)
        assert read(model_of([helper.make_node("HardSwish", ["x"], ["y"])])).nodes == (swish,)

    def test_weights_may_be_listed_as_inputs(self) -> None:
        model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": WEIGHT})
        model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, WEIGHT.shape))
        assert read(model).input_name == "x"

    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            ((1, 3, "height", 8), "the input 'x' has no static shape: 1x3xheightx8"),
            ((2, 3, 8, 8), "a batch of 1 was expected, but the input 'x' is 2x3x8x8"),
        ],
    )
    def test_a_shape_that_is_not_fixed_is_refused(self, shape: tuple[int | str, ...], expected: str) -> None:
        _refused(model_of([helper.make_node("Relu", ["x"], ["y"])], shape=shape), expected)

    def test_a_dynamic_batch_becomes_one_and_a_shape_can_be_given(self) -> None:
        relu = [helper.make_node("Relu", ["x"], ["y"])]
        assert read(model_of(relu, shape=("N", 3, 8, 8))).input_shape == (1, 3, 8, 8)
        given = read_model(model_of(relu, shape=("N", 3, "height", "width")), {"": (1, 3, 16, 20)})
        assert given.network.input_shape == given.network.shape_of("y") == (1, 3, 16, 20)
        _refused(model_of([helper.make_node("Relu", ["nothing"], ["y"])]), "is not valid ONNX")

    def test_what_depends_on_the_data_is_refused(self) -> None:
        _refused(ODD["if"](), "is a If: what it runs depends on the data")

    @pytest.mark.parametrize("name", sorted(set(ODD) - REFUSED))
    def test_every_odd_model_becomes_a_network_of_the_shapes_that_the_runtime_gives(self, name: str) -> None:
        model = ODD[name]()
        network = read(model)
        assert network.nodes
        if name in ORT_REFUSES:
            return
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        fixed = {
            value.name: value.shape for value in session.get_outputs() if all(isinstance(s, int) for s in value.shape)
        }
        for output in network.outputs:
            if output in fixed:
                assert list(network.shape_of(output)) == fixed[output]

    @given(share=st.floats(0, 1, exclude_max=True))
    @settings(max_examples=40)
    def test_a_file_that_was_cut_short_is_refused(self, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
        path = tmp_path_factory.getbasetemp() / "cut.onnx"
        data = _fp32(mixed()).SerializeToString()
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(InputError, match=r"cut\.onnx is not an ONNX file, or was cut short"):
            read(path)

    @pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n\x00\x00", b"{}", b"ONNX", bytes(100)])
    def test_another_kind_of_file_is_refused(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "image.onnx"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"image\.onnx is not an ONNX file"):
            read(path)

    def test_a_missing_file_and_missing_weights_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere\.onnx can't be read: No such file"):
            read(tmp_path / "nowhere.onnx")
        path = tmp_path / "net.onnx"
        onnx.save(_fp32(mixed()), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        assert read(path) == mixed()
        (tmp_path / "weights.bin").unlink()
        assert read(path) == mixed(), "shapes are all that a Network needs"
        with pytest.raises(InputError, match=r"net\.onnx can't be read: .*weights\.bin"):
            read_weights(path)


def _refused(model: onnx.ModelProto, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as error:
        read(model)
    assert "\n" not in error.value.message


@pytest.mark.parametrize("seed", range(4))
def test_a_larger_batch_computes_the_same(seed: int) -> None:
    space = for_data(28, 3, 10)
    network = space.network(space.sample(np.random.default_rng(seed)))
    model = to_onnx(network, random_weights(network, seed))
    images = np.random.default_rng(seed).standard_normal((6, *network.input_shape[1:]), np.float32)
    one, many = (
        onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        for each in (model, with_batch(model, 6))
    )
    expected = np.concatenate([one.run(None, {network.input_name: image[None]})[0] for image in images])
    assert np.allclose(many.run(None, {network.input_name: images})[0], expected, atol=1e-4)


def test_a_batch_that_is_there_already_is_not_changed() -> None:
    space = for_data(28, 3, 10)
    network = space.network(space.largest())
    model = with_batch(to_onnx(network, random_weights(network)), 3)
    with pytest.raises(EdgenasError, match="expected to have a batch of 1, but has 3"):
        with_batch(model, 5)


@pytest.mark.parametrize(("resolution_px", "channels"), [(28, 1), (64, 3)])
def test_the_size_of_a_file_is_known_before_it_is_written(resolution_px: int, channels: int) -> None:
    space, runtime = for_data(resolution_px, channels, 10), load_runtime("onnxruntime")
    rng = np.random.default_rng(1)
    for _ in range(6):
        network = space.network(space.sample(rng))
        for precision, tolerance in (("fp32", 0.005), ("int8", 0.03)):
            written = len(untrained(runtime, network, precision, 8).SerializeToString())  # type: ignore[arg-type]
            assert file_bytes(network, precision) == pytest.approx(written, rel=tolerance)  # type: ignore[arg-type]
