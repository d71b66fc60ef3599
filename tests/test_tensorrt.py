"""The runtime TensorRT: its layers as kernels, and its on-device part driven with a stand-in for trtexec (tests/stand_in/trtexec)."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgenas.artifacts.kernel import Kernel
from edgenas.measure import reference_network
from edgenas.network.fuse import FusedKernel, fuse
from edgenas.onnxio.random_weights import random_weights
from edgenas.runtimes import tensorrt, trtexec
from edgenas.runtimes.runtime import Runtime, load_runtime
from edgenas.targets.bootstrap import ON_DEVICE
from tests.test_trtexec import VERSIONS, golden

STAND_IN = Path(__file__).parent / "stand_in"


def kernels(*members: tuple[str, ...], macs: tuple[int, ...] = ()) -> tuple[FusedKernel, ...]:
    made = []
    for i, names in enumerate(members):
        op = "Conv" if i < len(macs) and macs[i] else "Mul"
        size = (1, 1) if op == "Conv" else (0, 0)
        made.append(FusedKernel(Kernel(op, (macs[i] if op == "Conv" else 1, 1, 1), (1, 1, 1), size), names))
    return tuple(made)


def attributed(names: list[str], fused: tuple[FusedKernel, ...], us: float = 10.0) -> list[float | None]:
    nodes = [{"name": name, "op": "", "shapes": [[], []], "us": [us]} for name in names]
    return [None if found is None else found[0] for found in tensorrt.attribute(nodes, fused)]


ALL = kernels(("Conv_0", "Relu_1"), ("Mul_2",), ("Conv_3", "Add_4"), ("Conv_5",), macs=(30, 0, 10, 30))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["Conv_0 + Relu_1"], [10, None, None, None]),
        (["Reformatting CopyNode for Input Tensor 0 to Conv_0 + Relu_1", "Conv_0 + Relu_1"], [20, None, None, None]),
        (["Reformatting CopyNode for Output Tensor 0 to Conv_5"], [None, None, None, 10]),
        (["Reformatting CopyNode for Network Input input", "Mul_2"], [None, 20, None, None]),
        (["Reformatting CopyNode for Network Output Conv_5"], [None, None, None, 10]),
        (["PWN(Mul_2)"], [None, 10, None, None]),
        (["PWN(PWN(Relu_1), Mul_2)"], [10, 0, None, None]),
        (["Conv_3 + Add_4 || Conv_5"], [None, None, 2.5, 7.5]),
        (["{ForeignNode[Mul_2...Conv_5]}"], [None, 0, 2.5, 7.5]),
        (["Conv_0.weight + QuantizeLinear_7 + Conv_0 + Relu_1"], [10, None, None, None]),
        (["[trainStation1]", "(Unnamed Layer* 54) [Shuffle]", "__myl_Fc_myl0_1"], [None] * 4),
        (["Conv_3 copy", "Mul_2_output_0 copy"], [None, 10, 10, None]),
    ],
)
def test_layers_are_given_to_kernels(layers: list[str], expected: list[float | None]) -> None:
    assert attributed(layers, ALL) == expected


def test_names_of_later_versions() -> None:
    fused = kernels(("/conv1/Conv", "/relu/Relu"), ("/act/Sigmoid",), ("/act/Mul",), macs=(5, 0, 0))
    assert attributed(["/conv1/Conv + /relu/Relu"], fused) == [10, None, None]
    assert attributed(["PWN(/act/Sigmoid, /act/Mul)"], fused) == [None, 5, 5]


def test_a_name_may_hold_every_mark() -> None:
    assert attributed(["a + b || c, d(e) + f"], kernels(("a + b || c, d(e) + f",), ("a",))) == [10, None]


@pytest.mark.parametrize("name", ["8.2/profile.json", "8.4/profile.json", "10/profile.json"])
def test_golden_profiles_lose_no_time(name: str) -> None:
    _, layers = trtexec.layer_profile(golden(name))
    members = [
        tuple(re.findall(r"(?<![.\w])(?:Conv|Relu|Add|Sigmoid|Mul|Gemm)_\d+|/\w+/\w+", layer["name"]))
        for layer in layers
    ]
    names = list(dict.fromkeys(name for names in members for name in names))
    found = attributed([layer["name"] for layer in layers if layer["us"]], kernels(*((name,) for name in names)))
    assert sum(value or 0 for value in found) == pytest.approx(10 * sum(layer["us"] > 0 for layer in layers))


def test_it_is_a_runtime() -> None:
    runtime = load_runtime("tensorrt")
    members = [name for name in vars(Runtime) if not name.startswith("_")] + list(Runtime.__annotations__)
    assert [name for name in members if not hasattr(runtime, name)] == []
    network = reference_network()
    chains = [fused.kernel.fused for fused in fuse(network, runtime.fusion("fp16", ()), "fp16")]
    assert any(chains)
    assert all(file.is_file() for file in (runtime.AGENT_PART, *tensorrt.AGENT_MODULES))


# The on-device part, with the stand-in


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    network = reference_network()
    path = tmp_path / "model.onnx"
    onnx.save(tensorrt.fp32_model(network, random_weights(network, 0)), path)
    return path


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"threads": 1, "precision": "fp16", "cache": str(tmp_path / "engines"), "calibration_cache": None}


class Device:
    """The part as the agent loads it, and what the stand-in was started with."""

    def __init__(self, log: Path) -> None:
        spec = importlib.util.spec_from_file_location("runtime_part", tensorrt.AGENT_PART)
        assert spec is not None
        assert spec.loader is not None
        self.part: Any = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:  # as the agent has them
            patch.setitem(sys.modules, "trtexec", trtexec)
            patch.syspath_prepend(str(ON_DEVICE))
            spec.loader.exec_module(self.part)
        self.log = log

    def starts(self, flag: str) -> list[str]:
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return [line for line in lines if flag in line]


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    if sys.platform == "win32":
        pytest.skip("Windows starts no scripts by their first line")
    monkeypatch.setenv("PATH", f"{STAND_IN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TRT_STAND_IN_LOG", str(tmp_path / "starts.log"))
    for name in ("VERSION", "INT8", "HANG"):
        monkeypatch.delenv(f"TRT_STAND_IN_{name}", raising=False)
    return Device(tmp_path / "starts.log")


def test_the_version_is_asked_once(device: Device) -> None:
    assert device.part.versions() == {"tensorrt": "8.2.1"}
    assert device.part.versions() == {"tensorrt": "8.2.1"}
    assert len(device.starts("--help")) == 1


def test_without_trtexec_there_is_no_version(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, onnx_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(device.part.trtexec, "find", lambda: None)
    assert device.part.versions() == {}
    with pytest.raises(
        RuntimeError, match="no trtexec runs here: it was looked for on PATH and in /usr/src/tensorrt/bin"
    ):
        device.part.open_model(str(onnx_path), {})


@pytest.mark.parametrize("number", VERSIONS)
def test_every_version_builds_times_and_profiles(
    device: Device, monkeypatch: pytest.MonkeyPatch, onnx_path: Path, options: dict[str, Any], number: int
) -> None:
    monkeypatch.setenv("TRT_STAND_IN_VERSION", str(number))
    options["precision"] = "fp16" if number < 110000 else "fp32"
    model = device.part.open_model(str(onnx_path), options)
    wall, busy = model.chunk(20)
    assert len(wall) == len(busy) == 20
    assert wall == busy
    assert 300_000 < min(wall) <= max(wall) < 1_000_000
    model.close()
    timer, finish = device.part.open_profile(str(onnx_path), options)
    for _ in range(2):
        assert len(timer.chunk(20)[0]) == 20
    layers = finish(2, 20)
    assert layers
    assert {len(layer["us"]) for layer in layers} == {2}
    assert all(set(layer) == {"name", "op", "shapes", "us"} and layer["op"] for layer in layers)
    assert (layers[0]["op"] == "Reformat") == (number >= 8200), "8.0 tells no kinds"
    assert len(device.starts("--saveEngine")) == 1
    network = reference_network()
    fused = fuse(network, tensorrt.fusion("fp16", ()), "fp16")
    times = tensorrt.attribute(layers, fused)
    assert sum(sum(us) for us in times if us) == pytest.approx(sum(sum(layer["us"]) for layer in layers))


def test_an_engine_is_built_once_for_what_it_is_made_of(
    device: Device, monkeypatch: pytest.MonkeyPatch, onnx_path: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    def build(**changed: Any) -> int:
        device.part.open_model(str(onnx_path), {**options, **changed}).close()
        return len(device.starts("--saveEngine"))

    assert build() == 1
    assert build() == 1, "found in the cache"
    assert build(threads=4) == 1, "of no effect on a GPU"
    assert build(precision="fp32") == 2
    calibration = tmp_path / "calibration.cache"
    calibration.write_text("TRT-8201-EntropyCalibration2\n", encoding="utf-8")
    assert build(precision="int8", calibration_cache=str(calibration)) == 3
    assert build(precision="int8", calibration_cache=str(calibration)) == 3
    calibration.write_text("TRT-8201-EntropyCalibration2\nx: 3c010a14\n", encoding="utf-8")
    assert build(precision="int8", calibration_cache=str(calibration)) == 4
    onnx_path.write_bytes(onnx_path.read_bytes() + b"\x2a\x00")
    assert build() == 5
    device.part._known["gpu"] = "another GPU"
    assert build() == 6
    monkeypatch.setenv("TRT_STAND_IN_VERSION", "8601")
    device.part._known.clear()
    assert build() == 7
    kept = Path(options["cache"])
    assert len(list(kept.glob("*.engine"))) == 7
    assert not list(kept.glob("building-*")), "nothing half done is left"
    assert len(list(kept.glob("*.timing"))) == 3, "one for each GPU and TensorRT"
    made_of = [json.loads(path.read_text(encoding="utf-8")) for path in kept.glob("*.engine.json")]
    assert {made["tensorrt"] for made in made_of} == {"8.2.1", "8.6.1"}


def test_the_gpu_is_named(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.part.probes, "board", lambda: None)
    monkeypatch.setattr(device.part, "nvidia_smi", lambda: None)
    assert device.part.gpu_name(trtexec.find()) == "Stand-in GPU"


@pytest.mark.parametrize("found", [b"\x00half an engine", b'{"version": 8001}'])
def test_an_engine_that_does_not_load_is_built_again(
    device: Device, onnx_path: Path, options: dict[str, Any], found: bytes
) -> None:
    model = device.part.open_model(str(onnx_path), options)
    Path(model.engine.path).write_bytes(found)
    assert len(model.chunk(3)[0]) == 3
    assert len(device.starts("--saveEngine")) == 2
    model.close()


def test_infer_runs_whole_batches(device: Device, tmp_path: Path, options: dict[str, Any]) -> None:
    network = reference_network()
    model = tensorrt.fp32_model(network, random_weights(network, 0))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "batch.onnx")
    images = np.random.default_rng(0).standard_normal((6, 3, 28, 28)).astype(np.float32)
    np.save(tmp_path / "in.npy", images)
    device.part.infer(str(tmp_path / "batch.onnx"), str(tmp_path / "in.npy"), str(tmp_path / "out.npy"), options)
    found = np.load(tmp_path / "out.npy")
    assert found.shape == (6, 10)
    assert found.dtype == np.float32
    expected = images.mean(axis=(1, 2, 3))[:, None] * np.arange(1, 11)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert len(device.starts("--loadInputs")) == 2
    np.save(tmp_path / "in.npy", images.astype(np.float64))
    with pytest.raises(ValueError, match="must hold rows of little-endian float32"):
        device.part.infer(str(tmp_path / "batch.onnx"), str(tmp_path / "in.npy"), str(tmp_path / "out.npy"), options)
    np.save(tmp_path / "in.npy", images[:, :, 1:])
    with pytest.raises(ValueError, match=r"rows of \(3, 27, 28\), the model takes \(3, 28, 28\)"):
        device.part.infer(str(tmp_path / "batch.onnx"), str(tmp_path / "in.npy"), str(tmp_path / "out.npy"), options)


def test_the_interface_of_an_onnx_file(device: Device, onnx_path: Path, tmp_path: Path) -> None:
    graph = onnx.load(onnx_path).graph
    assert device.part.interface(str(onnx_path)) == ("input", [1, 3, 28, 28], graph.output[0].name)
    for broken in (b"", b"\x3a\xff", onnx_path.read_bytes()[:-7]):
        (tmp_path / "broken.onnx").write_bytes(broken)
        with pytest.raises(ValueError, match="ONNX"):
            device.part.interface(str(tmp_path / "broken.onnx"))


def one_node(path: Path, op: str) -> str:
    helper = onnx.helper
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy"]
    node = helper.make_node(op, ["x"], ["y"], name=f"{op}_0")
    onnx.save(helper.make_model(helper.make_graph([node], "g", tensors[:1], tensors[1:])), path)
    return str(path)


def test_refusals_say_what_trtexec_says(
    device: Device, tmp_path: Path, options: dict[str, Any], onnx_path: Path
) -> None:
    with pytest.raises(
        RuntimeError, match=r"^trtexec failed: Networks with QuantizeLayer/DequantizeLayer layers require"
    ):
        device.part.open_model(one_node(tmp_path / "qdq.onnx", "QuantizeLinear"), options)
    with pytest.raises(RuntimeError, match=r"^trtexec failed: node 0 \(HardSwish\): .*Plugin not found"):
        device.part.open_model(one_node(tmp_path / "op.onnx", "HardSwish"), options)
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(RuntimeError, match="Failed to parse ONNX model"):
        device.part.open_model(str(tmp_path / "empty.onnx"), options)
    with pytest.raises(FileNotFoundError, match=r"missing\.onnx"):
        device.part.open_model(str(tmp_path / "missing.onnx"), options)
    assert not list(Path(options["cache"]).glob("*.engine"))
    assert len(device.part.open_model(str(onnx_path), options).chunk(2)[0]) == 2, "the next one is built all the same"


def test_quantized_models_build_where_there_is_int8(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("TRT_STAND_IN_INT8", "1")
    device.part.open_model(one_node(tmp_path / "qdq.onnx", "QuantizeLinear"), {**options, "precision": "int8"}).close()


def test_a_hanging_trtexec_is_given_up(
    device: Device, monkeypatch: pytest.MonkeyPatch, onnx_path: Path, options: dict[str, Any]
) -> None:
    model = device.part.open_model(str(onnx_path), options)
    monkeypatch.setenv("TRT_STAND_IN_HANG", "1")
    monkeypatch.setitem(device.part.LIMITS_S, "run", 1)
    start = time.perf_counter()
    with pytest.raises(RuntimeError, match=r"trtexec did not end within 1 s; it last said: .*Starting to hang"):
        model.chunk(5)
    assert time.perf_counter() - start < 10
    model.close()


@pytest.mark.parametrize("number", VERSIONS)
def test_the_stand_in_refuses_what_the_version_does_not_know(
    device: Device, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("TRT_STAND_IN_VERSION", str(number))
    flag = "--workspace=1" if number >= 100000 else "--stronglyTyped"
    code, text = device.part.call([trtexec.find(), "--onnx=x", flag], 60)
    assert code == 1
    assert trtexec.failure(text).startswith("Unknown option: " + flag.partition("=")[0])
