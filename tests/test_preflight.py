"""What is found before a build, and what edgenas mends itself: against the shipped devices, and in a real ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgenas import device
from edgenas.artifacts.device_spec import RuntimeSpec
from edgenas.artifacts.finding import Finding
from edgenas.errors import InputError
from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network
from edgenas.onnxio.qdq import Flavour, to_qdq
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.onnxio.rewrite import REWRITABLE, rewritten
from edgenas.onnxio.write import to_onnx
from edgenas.preflight import REWRITTEN, check_memory, check_model, check_storage
from edgenas.runtimes.tensorrt_operators import ADDED, OPSETS, operators, table_for
from tests.odd_models import ALL as ODD
from tests.odd_models import ORT_REFUSES

NANO = device.load("jetson-nano").runtime("tensorrt")
HOST = device.load("host").runtime("onnxruntime")
# A newer board: TensorRT 10 and fast INT8.
ORIN = NANO.model_copy(
    update={
        "opset_max": 20,
        "ir_version_max": 10,
        "precisions": {name: each.model_copy(update={"fast": True}) for name, each in NANO.precisions.items()},
    }
)
SHAPE = (1, 3, 8, 8)


def network() -> Network:
    b = Builder(SHAPE)
    x = b.activation("swish", b.conv("conv", INPUT, 8, 3), "HardSwish")
    return b.finish(b.linear("logits", b.flatten("flatten", b.global_average_pool("pool", x)), 5))


def quantized(flavour: Flavour) -> onnx.ModelProto:
    return to_qdq(network(), random_weights(network()), random_ranges(network()), flavour=flavour)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def model_of(
    *nodes: onnx.NodeProto, opset: int, constants: dict[str, np.ndarray] | None = None, ir_version: int = 10
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def single(op: str, opset: int, inputs: dict[str, np.ndarray] | None = None, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(op, ["x", *(inputs or {})], ["y"], name="node", **attributes)
    return model_of(node, opset=opset, constants=inputs)


def newer() -> onnx.ModelProto:
    """As a recent exporter writes: opset 18, reductions with their axes as an input, operators that opset 13 lacks."""
    return model_of(
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", kernel_shape=[1, 1]),
        helper.make_node("HardSwish", ["c"], ["h"], name="swish"),
        helper.make_node("LayerNormalization", ["h", "s", "b"], ["n"], name="norm", axis=1, epsilon=0.01),
        helper.make_node("Mish", ["n"], ["m"], name="mish"),
        helper.make_node("ReduceMean", ["m", "axes"], ["r"], name="mean", keepdims=0, noop_with_empty_axes=0),
        helper.make_node("Reshape", ["r", "shape"], ["y"], name="reshape", allowzero=0),
        opset=18,
        constants={
            "w": weight(4, 3, 1, 1),
            "s": weight(4, 8, 8),
            "b": weight(4, 8, 8),
            "axes": np.array([2, 3]),
            "shape": np.array([4, 1]),
        },
    )


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def nano(model: onnx.ModelProto, precision: Any = "fp16") -> list[Finding]:
    return check_model(model, NANO, "tensorrt", "8.2.1", precision)


# rows marked Y in the pages that the tables come from
COUNTS = {(8, 0): 121, (8, 2): 129, (8, 4): 135, (8, 5): 142, (8, 6): 145, (10, 0): 149, (10, 1): 150}


class TestOperators:
    def test_tables(self) -> None:
        assert {"HardSwish", "LayerNormalization", "Gelu", "GridSample"}.isdisjoint(operators(table_for("8.2")))
        assert {"Conv", "Gemm", "QuantizeLinear", "ReduceL2", "HardSigmoid", "Erf"} <= operators((8, 0))
        assert {version: len(operators(version)) for version in ADDED} == COUNTS
        assert ADDED.keys() == OPSETS.keys()

    @pytest.mark.parametrize(
        ("version", "table"),
        [("8.0.1", (8, 0)), ("8.3", (8, 2)), ("8.6.1.6", (8, 6)), ("9.3", (8, 6)), ("11", (10, 1))],
    )
    def test_a_version_has_the_newest_table_that_is_not_newer(self, version: str, table: tuple[int, int]) -> None:
        assert table_for(version) == table

    @pytest.mark.parametrize("version", ["7.2", "detected", ""])
    def test_no_table(self, version: str) -> None:
        with pytest.raises(InputError, match="TensorRT"):
            table_for(version)

    def test_each_operator_that_tensorrt_lacks_is_named_once(self) -> None:
        swish = helper.make_node("HardSwish", ["x"], ["h"])
        found = nano(model_of(swish, helper.make_node("HardSwish", ["h"], ["y"]), opset=14, ir_version=7))
        assert (
            Finding("warning", "tensorrt 8.2.1 has no HardSwish, and the model has 2 HardSwish nodes", REWRITTEN)
            in found
        )
        assert check_model(single("HardSwish", 14), ORIN, "tensorrt", "10.3.0", "fp16") == []

    def test_one_that_can_not_be_replaced_stops_the_build(self) -> None:
        model = model_of(helper.make_node("Det", ["x"], ["y"]), opset=13, ir_version=7)
        (found,) = nano(model)
        assert (found.severity, found.what) == ("error", "tensorrt 8.2.1 has no Det, and the model has 1 Det node")
        assert "8.2-GA/docs/operators.md" in found.remedy
        assert check_model(model, HOST, "onnxruntime", "1.32.0", "fp32") == []

    @pytest.mark.parametrize(
        ("spec", "runtime", "version"), [(NANO, "tensorrt", "8.2.1"), (HOST, "onnxruntime", "1.32.0")]
    )
    def test_an_operator_of_somebody_elses(self, spec: RuntimeSpec, runtime: str, version: str) -> None:
        model = model_of(helper.make_node("Fancy", ["x"], ["y"], domain="com.example"), opset=13, ir_version=7)
        (found,) = check_model(model, spec, runtime, version, "fp32")
        assert found.what == f"{runtime} does not know the operator com.example.Fancy"

    def test_a_function_that_the_model_brings_along(self) -> None:
        inner = [helper.make_node("Mish", ["a"], ["b"])]
        imports = [helper.make_opsetid("", 18)]
        model = model_of(helper.make_node("Fancy", ["x"], ["y"], domain="com.example"), opset=18)
        model.functions.append(helper.make_function("com.example", "Fancy", ["a"], ["b"], inner, imports))
        assert check_model(model, HOST, "onnxruntime", "1.32.0", "fp32") == []
        said = [each.what for each in nano(model)]
        assert "tensorrt 8.2.1 takes no functions that a model brings along: Fancy" in said
        assert "tensorrt 8.2.1 has no Mish, and the model has 1 Mish node" in said
        found, done = rewritten(model, ("Mish",), 13)
        assert nano(found) == []
        assert done[0] == "the function Fancy was put in the place of its calls"
        image = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
        np.testing.assert_allclose(run(found, image), run(model, image), rtol=1e-5, atol=1e-6)


class TestVersions:
    def test_what_edgenas_writes_passes_everywhere(self) -> None:
        model = to_onnx(network(), random_weights(network()))
        for each in map(device.load, device.names()):
            for runtime, spec in each.runtimes.items() if each.predict_only is None else ():
                newest = {"tensorrt": "10.3.0", "onnxruntime": "1.32.0"}
                version = spec.version if spec.version != "detected" else newest[runtime]
                assert check_model(model, spec, runtime, version, "fp32") == []

    def test_an_older_opset_and_ir_version(self) -> None:
        found = nano(single("Relu", 17))
        assert [(each.severity, each.remedy) for each in found] == [("warning", REWRITTEN)] * 2
        assert "opset 17, and tensorrt on this device reads up to 13" in found[0].what
        assert "IR version 10, and tensorrt on this device reads up to 7" in found[1].what

    def test_an_opset_that_can_not_be_lowered(self) -> None:
        model = model_of(
            helper.make_node("GridSample", ["x", "grid"], ["y"]), opset=20, constants={"grid": weight(1, 4, 4, 2)}
        )
        opset = next(each for each in check_model(model, NANO, "tensorrt", "8.5.0", "fp16") if "opset 20" in each.what)
        assert opset.severity == "error"
        assert opset.what.endswith("GridSample exists from opset 20 on")
        assert opset.remedy == "Export the model at opset 13."
        with pytest.raises(InputError, match="GridSample exists from opset 20 on"):
            rewritten(model, (), 13)

    def test_onnx_runtime_has_its_versions_too(self) -> None:
        found = check_model(single("Swish", 24), HOST, "onnxruntime", "1.20.0", "fp32")
        assert ["opset 24" in each.what for each in found] == [True]


class TestPrecision:
    def test_the_nano_refuses_qdq(self) -> None:
        (found,) = nano(quantized("trt"), "int8")
        assert (found.severity, "hardware without INT8" in found.what) == ("error", True)
        assert "fp16" in found.remedy
        assert nano(quantized("trt"), "fp16") == [found], "whatever is asked of it"

    def test_slow_int8_without_qdq_is_a_warning(self) -> None:
        (found,) = nano(to_onnx(network(), random_weights(network())), "int8")
        assert found.severity == "warning"
        assert found.what.startswith("int8 is slow in tensorrt on this device: The GPU (compute capability 5.3)")

    def test_a_precision_that_the_runtime_lacks(self) -> None:
        (found,) = check_model(to_onnx(network(), random_weights(network())), HOST, "onnxruntime", "1.32.0", "fp16")
        assert found.what == "onnxruntime on this device does not run fp16"

    def test_the_right_flavour_passes_and_the_other_does_not(self) -> None:
        assert check_model(quantized("trt"), ORIN, "tensorrt", "10.3.0", "int8") == []
        assert check_model(quantized("trt"), ORIN, "tensorrt", "8.6.1", "int8") == []
        assert check_model(quantized("ort"), HOST, "onnxruntime", "1.32.0", "int8") == []
        said = {each.what for each in check_model(quantized("ort"), ORIN, "tensorrt", "8.6.1", "int8")}
        assert "QuantizeLinear node 'input.quantized' has the zero point 128, and TensorRT only takes 0" in said
        assert any("refuses int8 constants" in what for what in said)


class TestMemoryAndStorage:
    def test_memory(self) -> None:
        assert check_memory(100, 100, 4096) == check_memory(9999, 0, None) == []
        (warned,) = check_memory(2000, 500, 4096)
        (stopped,) = check_memory(4000, 500, 4096)
        assert (warned.severity, stopped.severity) == ("warning", "error")
        assert stopped.what == "the model needs 4500 MiB (4000 activations, 500 weights) of 4096 MiB"

    def test_storage(self) -> None:
        assert check_storage(2**20, 2**20) == []
        (found,) = check_storage(2**21, 2**20)
        assert found.what == "2.0 MiB are needed on the device, and 1.0 MiB are free"
        assert found.severity == "error"


CASES: dict[str, onnx.ModelProto] = {
    "hard swish": single("HardSwish", 14),
    "gelu": single("Gelu", 20),
    "gelu by tanh": single("Gelu", 20, approximate="tanh"),
    "mish": single("Mish", 18),
    "reciprocal": single("Reciprocal", 13),
    "swish": single("Swish", 24, alpha=1.5),
    "layer normalization": single("LayerNormalization", 17, {"s": weight(8)}),
    "layer normalization over three axes": single(
        "LayerNormalization", 17, {"s": weight(3, 8, 8), "b": weight(8, 8)}, axis=1, epsilon=0.1
    ),
    "a whole network": newer(),
}


class TestRewritten:
    @pytest.mark.parametrize("opset", [13, None])
    @pytest.mark.parametrize("name", CASES)
    def test_it_computes_the_same(self, name: str, opset: int | None) -> None:
        model = CASES[name]
        found, done = rewritten(model, REWRITABLE, opset)
        assert done
        assert not set(REWRITABLE) & {node.op_type for node in found.graph.node}
        assert {each.domain for each in found.opset_import} <= {"", "com.example"}
        if opset:
            assert found.opset_import[0].version == 13
            assert found.ir_version == 7
        image = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
        expected = run(model, image)
        assert expected.std() > 0.01
        np.testing.assert_allclose(run(found, image), expected, rtol=1e-4, atol=2e-6)

    def test_it_leaves_nothing_to_warn_of(self) -> None:
        before = nano(newer())
        assert {each.remedy for each in before} == {REWRITTEN}
        found, done = rewritten(newer(), REWRITABLE, NANO.opset_max)
        assert nano(found) == []
        assert done == (
            "HardSwish node 'swish' became primitives",
            "LayerNormalization node 'norm' became primitives",
            "Mish node 'mish' became primitives",
            "opset 18 became 13",
            "IR version 10 became 7",
        )

    def test_only_what_is_asked_for(self) -> None:
        found, _ = rewritten(newer(), ("Mish",))
        ops = [node.op_type for node in found.graph.node]
        assert "Mish" not in ops
        assert {"HardSwish", "LayerNormalization"} <= set(ops)
        model = to_onnx(network(), random_weights(network()))
        assert rewritten(model, REWRITABLE, 13) == (model, ())

    @pytest.mark.parametrize(
        ("node", "opset", "said"),
        [
            (helper.make_node("Resize", ["x", "", "scales"], ["y"], antialias=1), 18, "the attribute antialias"),
            (helper.make_node("ReduceMean", ["x", "computed"], ["y"]), 18, "more inputs"),
            (helper.make_node("RoiAlign", ["x", "rois", "batch"], ["y"]), 16, "means something else"),
        ],
    )
    def test_what_the_older_opset_can_not_say(self, node: onnx.NodeProto, opset: int, said: str) -> None:
        with pytest.raises(InputError, match=said):
            rewritten(model_of(node, opset=opset), (), 13)

    def test_half_precision_is_refused_in_a_sentence(self) -> None:
        model = single("Gelu", 20)
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        with pytest.raises(InputError, match="can't be written at opset 13"):
            rewritten(model, ("Gelu",), 13)

    @pytest.mark.parametrize("name", sorted(set(ODD) - set(ORT_REFUSES)))
    def test_files_from_anywhere(self, name: str) -> None:
        """Every one is judged; where there are only warnings, what is rewritten has none left and computes the same."""
        model = ODD[name]()
        found = nano(model)
        if any(each.severity == "error" for each in found):
            return
        mended, _ = rewritten(model, REWRITABLE, NANO.opset_max)
        assert not [each for each in nano(mended) if each.remedy == REWRITTEN]
        (first, *_), feeds = outputs(model)
        np.testing.assert_allclose(outputs(mended, feeds)[0][0], first, rtol=1e-3, atol=1e-5)


def outputs(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray] | None = None
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """What the model makes of random inputs, or of those given; and the inputs."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    types = {
        "tensor(float)": np.float32,
        "tensor(double)": np.float64,
        "tensor(uint8)": np.uint8,
        "tensor(int64)": np.int64,
        "tensor(float16)": np.float16,
    }
    given = feeds or {
        value.name: rng.uniform(0, 4, [n if isinstance(n, int) else 1 for n in value.shape]).astype(types[value.type])
        for value in session.get_inputs()
    }
    return session.run(None, given), given
