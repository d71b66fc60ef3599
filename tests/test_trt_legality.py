"""The `trt` QDQ flavour: what lies in the file, that it computes what FP32 does, and that a real TensorRT parser agrees."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network
from edgenas.onnxio.qdq import ActivationQuantization, Flavour, quantized_inputs, to_qdq, weight_scales
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.onnxio.read import read
from edgenas.onnxio.trt_legality import int8_constants, violations
from edgenas.onnxio.write import to_onnx
from edgenas.spaces import cell_stack
from edgenas.spaces.generic import FAMILIES, random_network
from edgenas.spaces.mobile import for_data
from edgenas.spaces.offer import Offer
from edgenas.spaces.space import SearchSpace

GATES = Offer(("relu", "hard_swish"), squeeze_excite=True, depthwise_7x7=True)
SPACES: tuple[SearchSpace, ...] = (
    *(for_data(28, 1, 10), for_data(32, 3, 10), for_data(96, 3, 10)),
    *(for_data(64, 3, 10, GATES), cell_stack.for_data(32, 3, 10)),
)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    space = draw(st.sampled_from(SPACES))
    return space.network(space.subnet(draw(st.tuples(*(st.integers(0, count - 1) for count in space.radix())))))


def squeeze_excite() -> Network:
    """MobileNetV3's block: HardSwish, and a gate per channel; a residual whose both branches are no convolution."""
    b = Builder((1, 3, 16, 16))
    x = b.activation("stem/swish", b.conv("stem/conv", INPUT, 16, 3, 2), "HardSwish")
    y = b.activation("swish", b.conv("expand", x, 32), "HardSwish")
    y = b.activation("swish2", b.conv("depthwise", y, 32, 3, groups=32), "HardSwish")
    gate = b.activation("se/relu", b.conv("se/reduce", b.global_average_pool("se/pool", y), 8))
    gate = b.activation("se/gate", b.conv("se/expand", gate, 32), "HardSigmoid")
    y = b.node("se/scale", "Mul", (y, gate), b.shape(y))
    y = b.activation("clip", b.add("add", b.conv("project", y, 16), x))
    x = b.add("sum", b.max_pool("pool1", y, 2, 2), b.average_pool("pool2", x, 2, 2))
    return b.finish(b.linear("logits", b.flatten("flatten", x), 10))


def projected() -> Network:
    """A residual block whose skip is a convolution too, and a second output."""
    b = Builder((1, 3, 8, 8))
    x = b.activation("relu1", b.conv("conv1", INPUT, 8, 3))
    y = b.conv("conv3", b.activation("relu2", b.conv("conv2", x, 16, 3, 2)), 16, 3)
    x = b.activation("relu3", b.add("add", y, b.conv("skip", x, 16, 1, 2)))
    return b.finish(b.linear("logits", b.flatten("flatten", b.global_average_pool("pool", x)), 5), x)


HAND_MADE = {"squeeze_excite": squeeze_excite, "projected": projected}


def written(network: Network, flavour: Flavour = "trt", seed: int = 0) -> onnx.ModelProto:
    return to_qdq(network, random_weights(network, seed), random_ranges(network, seed), flavour=flavour)


def sampled(count: int) -> list[Network]:
    rng = np.random.default_rng(0)
    return [space.network(space.sample(rng)) for space in SPACES for _ in range(count)]


def generic() -> dict[str, Network]:
    """One network of each family that `predict` is fitted on: splits, resizing, transposed convolutions, several heads."""
    return {name: random_network(np.random.default_rng(0), name, max_px=64) for name in FAMILIES}


class TestFlavour:
    @settings(max_examples=15)
    @given(network=networks(), seed=st.integers(0, 9))
    def test_every_file_is_legal(self, network: Network, seed: int) -> None:
        model = written(network, seed=seed)
        assert violations(model) == ()
        assert int8_constants(model) == ()
        assert [(each.domain, each.version) for each in model.opset_import] == [("", 13)]
        assert model.ir_version == 7
        assert read(model) == network, "it can be read back for its latency"

    @pytest.mark.parametrize("family", FAMILIES)
    def test_files_of_other_networks_are_legal(self, family: str) -> None:
        network = generic()[family]
        model = written(network)
        assert violations(model) == ()
        assert read(model) == read(to_onnx(network, random_weights(network)))

    @settings(max_examples=10)
    @given(network=networks())
    def test_what_lies_in_the_file(self, network: Network) -> None:
        model, weights = written(network), random_weights(network)
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        makers = {output: node for node in model.graph.node for output in node.output}
        for node in network.weighted():
            found = makers[node.name]
            source, weight = (makers[name] for name in found.input[:2])
            assert (source.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
            assert np.array_equal(arrays[found.input[2]], weights[f"{node.name}.bias"]), "the bias stays float"
            quantizer = makers[weight.input[0]]
            assert np.array_equal(arrays[quantizer.input[0]], weights[f"{node.name}.weight"])
            assert [(a.name, a.i) for each in (quantizer, weight) for a in each.attribute] == [("axis", 0)] * 2
            assert arrays[weight.input[1]].shape == (len(weights[f"{node.name}.bias"]),)
        zero_points = [array for name, array in arrays.items() if name.endswith(".zero_point")]
        assert all(array.dtype == np.int8 and not array.any() for array in zero_points)
        assert makers[network.output_name].op_type == "Gemm", "the logits stay float"

    def test_the_scale_of_an_activation_is_that_of_its_greatest_magnitude(self) -> None:
        assert ActivationQuantization(0.1, 0).symmetric_scale == pytest.approx(25.5 / 127)
        assert ActivationQuantization(0.1, 200).symmetric_scale == pytest.approx(20 / 127)
        assert np.float32(ActivationQuantization(1e-44, 0).symmetric_scale) > 0
        assert (weight_scales(np.full((2, 3), 1e-44, np.float32), 8) > 0).all()

    def test_a_sum_quantizes_what_its_convolution_does_not_take_in(self) -> None:
        asked = {
            name: quantized_inputs(network, network.by_name[name])
            for network in (squeeze_excite(), projected())
            for name in ("add", "sum")
            if name in network.by_name
        }
        assert asked == {"add": ("skip",), "sum": ("pool1", "pool2")}
        network = squeeze_excite()
        assert quantized_inputs(network, network.by_name["add"]) == ("stem/swish",)
        quantized = {node.name for node in written(network).graph.node if node.op_type == "QuantizeLinear"}
        assert not {"project.quantized", "stem/conv.quantized", "logits.quantized"} & quantized

    @pytest.mark.parametrize("name", ["squeeze_excite", "projected", 0, 1, 2, 3, 4, 5])
    @pytest.mark.parametrize("bits", [7, 8])
    def test_int8_follows_fp32(self, name: str | int, bits: int) -> None:
        network = HAND_MADE[name]() if isinstance(name, str) else sampled(2)[name]
        weights = random_weights(network)
        images = np.random.default_rng(1).standard_normal((24, *network.input_shape)).astype(np.float32)
        float_model = to_onnx(network, weights)
        ranges = observed(float_model, images)
        int8 = to_qdq(network, weights, ranges, weight_bits=bits, flavour="trt")
        signal, noise = 0.0, 0.0
        for expected, found in zip(outputs(float_model, images), outputs(int8, images), strict=True):
            signal, noise = signal + np.square(expected).sum(), noise + np.square(expected - found).sum()
        assert 10 * np.log10(signal / noise) > 20


def outputs(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    """The first output for each image, as the file says it: optimisation would fold what is to be tested."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run(None, {session.get_inputs()[0].name: image})[0] for image in images]


def observed(model: onnx.ModelProto, images: np.ndarray) -> dict[str, ActivationQuantization]:
    shown = onnx.shape_inference.infer_shapes(model)
    del shown.graph.output[:]
    shown.graph.output.extend(shown.graph.value_info)
    shown.graph.output.extend(model.graph.output)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    names = [source, *(output.name for output in session.get_outputs())]
    rows = [[image, *session.run(None, {source: image})] for image in images]
    found = {}
    for name, *values in zip(names, *rows, strict=True):
        low, high = min(0.0, *(v.min() for v in values)), max(1e-3, *(v.max() for v in values))
        found[name] = ActivationQuantization(float(high - low) / 255, round(-low / (high - low) * 255))
    return found


def changed(name: str, value: np.ndarray) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(value, name))

    return change


def int32_bias(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.name == "expand")
    constants = {"q": np.arange(32, dtype=np.int32), "s": np.ones(32, np.float32), "z": np.zeros(32, np.int32)}
    model.graph.initializer.extend(numpy_helper.from_array(a, f"bias.{name}") for name, a in constants.items())
    names = [f"bias.{name}" for name in constants]
    bias = helper.make_node("DequantizeLinear", names, ["bias.back"], name="bias.back", axis=0)
    node.input[2] = "bias.back"
    model.graph.node.insert(0, bias)


def dynamic_scale(model: onnx.ModelProto) -> None:
    maker = helper.make_node("ReduceMax", ["input"], ["computed"], name="computed", keepdims=0)
    model.graph.node.insert(0, maker)
    next(node for node in model.graph.node if node.name == "input.quantized").input[1] = "computed"


def per_channel_activation(model: onnx.ModelProto) -> None:
    changed("se/pool.scale", np.full(32, 0.1, np.float32))(model)
    changed("se/pool.zero_point", np.zeros(32, np.int8))(model)
    for node in model.graph.node:
        if node.name.startswith("se/pool."):
            node.attribute.append(helper.make_attribute("axis", 1))


def opset_12(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 12


def no_zero_point(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.name.startswith("se/pool."):
            node.input.pop()


# what is done to the file -> the node at fault, what is said of it, and whether TensorRT for RTX refuses it as well
MUTATIONS: dict[str, tuple[Callable[[onnx.ModelProto], None], str, str, bool]] = {
    "zero point 3": (changed("se/pool.zero_point", np.int8(3)), "se/pool.quantized", "zero point 3", True),
    "uint8": (changed("se/pool.zero_point", np.uint8(0)), "se/pool.quantized", "silently reads as int8", False),
    "scale 0": (changed("se/pool.scale", np.float32(0)), "se/pool.quantized", "scale 0.0", True),
    "negative": (changed("se/pool.scale", np.float32(-1)), "se/pool.quantized", "scale -1.0", True),
    "nan": (changed("se/pool.scale", np.float32(np.nan)), "se/pool.quantized", "scale nan", True),
    "int32 bias": (int32_bias, "bias.back", "a quantized bias", True),
    "dynamic scale": (dynamic_scale, "input.quantized", "scale that is computed", False),
    "per-channel activation": (per_channel_activation, "se/pool.quantized", "per channel on an activation", False),
    "opset 12": (opset_12, "expand.weight.quantized", "per channel at opset 12", False),
    "no zero point": (no_zero_point, "se/pool.quantized", "no zero point", False),
}


def mutated(name: str) -> onnx.ModelProto:
    model = written(squeeze_excite())
    MUTATIONS[name][0](model)
    return model


class TestViolations:
    @pytest.mark.parametrize("name", MUTATIONS)
    def test_each_is_found_with_its_node_and_a_remedy(self, name: str) -> None:
        _, node, what, _ = MUTATIONS[name]
        found = violations(mutated(name))
        said = [violation for violation in found if violation.node == node and what in violation.what]
        assert said, found
        assert all(violation.remedy for violation in found)
        assert len({violation.what.split("'")[2] for violation in found}) == 1, "nothing else is complained about"

    def test_the_flavour_for_onnx_runtime_breaks_all_of_its_rules(self) -> None:
        said = " ".join(violation.what for violation in violations(written(squeeze_excite(), "ort")))
        assert "silently reads as int8" in said
        assert "a quantized bias" in said
        assert "the zero point 128" in said

    def test_a_model_without_qdq_is_legal(self) -> None:
        network = squeeze_excite()
        assert violations(to_onnx(network, random_weights(network))) == ()

    def test_constants_may_be_made_by_nodes(self) -> None:
        """As PyTorch writes them: scale and zero point come from Constant and Identity nodes."""
        nodes = [
            helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.float32(0.1))),
            helper.make_node("Constant", [], ["z0"], value=numpy_helper.from_array(np.int8(5))),
            helper.make_node("Identity", ["z0"], ["z"]),
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3)) for name in ("x", "y")]
        model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]))
        assert [violation.node for violation in violations(model)] == ["q", "y"]

    def test_int8_constants_are_listed(self) -> None:
        network = squeeze_excite()
        found = int8_constants(written(network, "ort"))
        assert "expand.weight.dequantized" in found
        assert not any("pool" in name for name in found)


PARSER = """
import json, sys
import tensorrt_rtx_bindings as trt
log = trt.Logger(trt.Logger.INTERNAL_ERROR)
builder = trt.Builder(log)
for path in sys.argv[1:]:
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    accepted = parser.parse_from_file(path)
    said = " ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
    if accepted and builder.build_serialized_network(network, builder.create_builder_config()) is None:
        accepted, said = False, "no engine can be built"
    print(json.dumps([path, accepted, said]), flush=True)
"""


def parsed(models: Mapping[str, onnx.ModelProto], folder: Path) -> dict[str, str | None]:
    """Name -> None where TensorRT reads the model and builds an engine, or what it says. In a process of its own: it can crash."""
    paths = {str(folder / f"{i}.onnx"): name for i, name in enumerate(models)}
    for path, name in paths.items():
        onnx.save(models[name], path)
    done = subprocess.run([sys.executable, "-c", PARSER, *paths], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    verdicts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(verdicts) == len(models), done.stdout
    return {paths[path]: None if accepted else said or "refused" for path, accepted, said in verdicts}


@pytest.mark.system
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT's parser is not installed; on Linux x86-64: pip install 'edgenas[trt-check]'",
)
class TestParser:
    """TensorRT for RTX reads ONNX with the parser that TensorRT has, and builds engines; it needs no GPU for either."""

    def test_it_takes_every_file_of_the_flavour(self, tmp_path: Path) -> None:
        found = {f"sample {i}": written(network, seed=i) for i, network in enumerate(sampled(8))}
        found |= {name: written(network()) for name, network in HAND_MADE.items()}
        found |= {name: written(network) for name, network in generic().items()}
        assert {name: said for name, said in parsed(found, tmp_path).items() if said} == {}

    def test_it_refuses_the_flavour_for_onnx_runtime(self, tmp_path: Path) -> None:
        found = {f"sample {i}": written(network, "ort") for i, network in enumerate(sampled(1))}
        found |= {name: written(network(), "ort") for name, network in HAND_MADE.items()}
        assert all(violations(model) for model in found.values())
        assert all("zero point" in (said or "") for said in parsed(found, tmp_path).values())

    def test_it_refuses_what_is_a_violation(self, tmp_path: Path) -> None:
        """Or reads it silently in another way: those are the ones that `violations` is for."""
        verdicts = parsed({name: mutated(name) for name in MUTATIONS}, tmp_path)
        assert {name: said is not None for name, said in verdicts.items()} == {
            name: refused for name, (*_, refused) in MUTATIONS.items()
        }
