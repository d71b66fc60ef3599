"""trtexec: its formats and its command lines, by version."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from edgenas.runtimes import trtexec

GOLDEN = Path(__file__).parent / "golden" / "trtexec"
STAND_IN = Path(__file__).parent / "stand_in"
VERSIONS = {
    8001: (8, 0, 1),
    8201: (8, 2, 1),
    8402: (8, 4, 2),
    8502: (8, 5, 2),
    8601: (8, 6, 1),
    100300: (10, 3, 0),
    101303: (10, 13, 3),
    110100: (11, 1, 0),
}


def golden(name: str) -> str:
    return (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "expected"), [*VERSIONS.items(), (8003, (8, 0, 3)), (10300, (10, 3, 0))])
def test_the_banner_tells_the_version(number: int, expected: tuple[int, ...]) -> None:
    assert trtexec.version(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] [b9] # trtexec --help") == expected


def test_versions_elsewhere_in_a_log() -> None:
    assert trtexec.version("[01/02/2024-03:04:05] [I] TensorRT version: 8.2.1\n") == (8, 2, 1)
    assert trtexec.version("[01/02/2024-03:04:05] [I] TensorRT version: 8003\n") == (8, 0, 3)
    assert trtexec.version("bash: trtexec: command not found") is None
    assert trtexec.version(golden("8.0/failed_operator.log")) == (8, 0, 3)


@pytest.mark.parametrize(
    ("name", "telling"),
    [
        (
            "8.0/failed_operator.log",
            'node 17 (Round): creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
        ),
        (
            "8.2/failed_int8.log",
            "Networks with QuantizeLayer/DequantizeLayer layers require hardware with Int8 support.",
        ),
        (
            "8.2/failed_other_version.log",
            "Serialization assertion stdVersionRead == serializationVersion failed.Version tag does not match. "
            "Note: Current Version: 205, Serialized Engine Version: 213",
        ),
        ("8.2/failed_flag.log", "Unknown option: --memPoolSize workspace:64"),
        ("8.5/failed_node.log", "Could not find any implementation for node /up/ConvTranspose + /up/Relu."),
        (
            "8.6/failed_node.log",
            "Could not find any implementation for node weights + quantized_weights + depthwise.",
        ),
        (
            "10/failed_backends.log",
            "Could not find any implementation for node stem.weight + /stem/QuantizeLinear + /stem/Conv.",
        ),
    ],
)
def test_a_failed_run_is_told_in_one_sentence(name: str, telling: str) -> None:
    assert trtexec.failure(golden(name)) == telling


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("", "trtexec said nothing"),
        (
            "trtexec: error while loading shared libraries: libnvinfer.so.8: cannot open shared object file\n",
            "trtexec: error while loading shared libraries: libnvinfer.so.8: cannot open shared object file",
        ),
        (
            "&&&& RUNNING x\n[01/02/2024-03:04:05] [I] Start\nCuda failure: out of memory\n",
            "Cuda failure: out of memory",
        ),
        ("[01/02/2024-03:04:05] [E] Engine set up failed\n", "Engine set up failed"),
        (
            "Error[3]: [a.cpp::enqueue::1] Error Code 3: Internal Error (The batch was 4, at most 1\n)\n"
            "[01/02/2024-03:04:05] [E] Error occurred during inference\n",
            "The batch was 4, at most 1",
        ),
        ("[TRT] [E] 9: [a.cpp::build::1] Error Code 9: Internal Error (No (such) thing.)", "No (such) thing."),
    ],
)
def test_failures_without_an_error_line(text: str, telling: str) -> None:
    assert trtexec.failure(text) == telling


def test_summaries() -> None:
    nano = trtexec.summary(golden("8.2/passed.log"))
    assert nano["throughput_qps"] == 25.5
    assert nano["latency_ms"] == {"min": 39.25, "max": 44.5, "mean": 39.75, "median": 39.5, "p99": 44.5}
    assert nano["end_to_end_ms"]["median"] == 39.6
    assert trtexec.device(golden("8.2/passed.log")) == "NVIDIA Tegra X1"
    later = trtexec.summary(golden("8.6/passed.log"))
    assert later["gpu_ms"]["p90"] == 30.4
    assert later["latency_ms"]["p95"] == 30.85
    assert (later["host_walltime_s"], later["gpu_compute_s"]) == (3.0625, 3.03125)
    assert "end_to_end_ms" not in later
    assert trtexec.summary(golden("8.2/failed_flag.log")) == {}
    assert trtexec.device(golden("8.2/failed_flag.log")) is None


def test_times_leave_out_the_warm_up() -> None:
    assert [run["latencyMs"] for run in trtexec.times(golden("8.2/times.json"))] == [39.75, 40.25]
    assert [run["latencyMs"] for run in trtexec.times(golden("8.2/times.json"), warmup_ms=0)] == [
        60.75,
        40.75,
        39.75,
        40.25,
    ]
    assert [run["computeMs"] for run in trtexec.times(golden("8.4/times.json"))] == [0.75]
    assert "endToEndMs" in trtexec.times(golden("8.2/times.json"))[0]
    with pytest.raises(ValueError, match="the times of trtexec can't be read"):
        trtexec.times(golden("8.2/times.json")[:-40])


def test_layer_profiles() -> None:
    count, layers = trtexec.layer_profile(golden("8.2/profile.json"))
    assert count == 100
    assert [(layer["name"], layer["us"], layer["median_us"]) for layer in layers[1:3]] == [
        ("Conv_0 + Relu_1", 2500, None),
        ("PWN(Sigmoid_2, Mul_3)", 375, None),
    ]
    assert trtexec.layer_profile(golden("8.4/profile.json"))[1][0]["median_us"] == 125
    assert [layer["us"] for layer in trtexec.layer_profile(golden("10/profile.json"))[1]] == [10, 500, 490, 0]
    with pytest.raises(ValueError, match="breaks off"):
        trtexec.layer_profile(golden("8.2/profile.json")[:-20])


def test_layer_names_are_not_escaped() -> None:
    line = '[\n  { "count" : 1 }\n, { "name" : "a "b" \\c", "timeMs" : 1, "averageMs" : 1, "percentage" : 100 }\n]\n'
    assert trtexec.layer_profile(line)[1][0]["name"] == 'a "b" \\c'


def test_layer_information() -> None:
    assert trtexec.layer_info(golden("8.4/layers.json")) == [
        {"name": "Conv_0 + Relu_1", "op": "CaskConvolution", "shapes": [[1, 3, 64, 64], [1, 16, 32, 32]]},
        {"name": "shape", "op": "Constant", "shapes": [[], [2]]},
    ]
    assert [layer["name"] for layer in trtexec.layer_info(golden("8.2/layers.json"))][1] == "PWN(Sigmoid_2, Mul_3)"


def test_output_tensors() -> None:
    found = trtexec.outputs(golden("10/outputs.json"))
    shape, values = found["logits"]
    assert shape == (2, 3)
    assert math.isnan(values[2])
    assert values[:2] + values[3:] == [0.5, -1.25e-05, 3, -math.inf, 12.5]
    assert found['say "scalar"'] == ((), [7])
    with pytest.raises(ValueError, match="has 5 values for 2x3"):
        trtexec.outputs(golden("10/outputs.json").replace("0.5, ", "", 1))
    with pytest.raises(ValueError, match="no output tensors"):
        trtexec.outputs("[\n]\n")


def build(version: tuple[int, ...], **options: Any) -> list[str]:
    return list(trtexec.build_command("trtexec", version, "m.onnx", "m.engine", options)[3:])


def test_builds_by_version() -> None:
    assert build((8, 0, 1), precision="fp16", workspace_mib=1024) == ["--fp16", "--workspace=1024", "--buildOnly"]
    assert build((8, 2, 1), precision="int8", calibration_cache="c", timing_cache="t") == [
        *("--int8", "--fp16", "--profilingVerbosity=detailed", "--calib=c", "--timingCacheFile=t", "--buildOnly")
    ]
    assert build((8, 5, 2), precision="fp32", workspace_mib=64) == [
        *("--memPoolSize=workspace:64", "--profilingVerbosity=detailed", "--buildOnly")
    ]
    assert build((10, 3, 0), precision="best") == ["--best", "--profilingVerbosity=detailed", "--skipInference"]
    assert build((11, 1, 0), precision="int8") == ["--profilingVerbosity=detailed", "--skipInference"]
    with pytest.raises(ValueError, match="TensorRT 11 takes the precision from the ONNX file"):
        build((11, 1, 0), precision="fp16")
    with pytest.raises(ValueError, match="reads no calibration cache"):
        build((11, 1, 0), precision="int8", calibration_cache="c")
    with pytest.raises(ValueError, match="precision 'fp8' is none of"):
        build((8, 2, 1), precision="fp8")


def test_runs_by_version() -> None:
    bench = trtexec.bench_command("trtexec", (8, 2, 1), "m.onnx", "m.engine", 50, "t.json")
    assert bench[1:] == [
        *("--loadEngine=m.engine", "--iterations=55", "--duration=0", "--warmUp=200", "--onnx=m.onnx", "--useSpinWait"),
        "--exportTimes=t.json",
    ]
    assert "--onnx=m.onnx" not in trtexec.bench_command("trtexec", (10, 3, 0), "m.onnx", "m.engine", 50, "t.json")
    assert "--includeDataTransfers" in trtexec.bench_command("trtexec", (11, 0, 0), "m.onnx", "m.engine", 50, "t.json")
    profile = trtexec.profile_command("trtexec", (8, 0, 1), "m.onnx", "e", 50, "t", "p", "l")
    assert profile[-2:] == ["--separateProfileRun", "--exportProfile=p"]
    assert "--exportLayerInfo=l" in trtexec.profile_command("trtexec", (8, 2, 1), "m.onnx", "e", 50, "t", "p", "l")
    infer = trtexec.infer_command("trtexec", (8, 2, 1), "m.onnx", "e", {"input:0": "0.bin"}, "o.json")
    assert infer[-2:] == ["--loadInputs=input:0:0.bin", "--exportOutput=o.json"]
    with pytest.raises(ValueError, match="comma or colon"):
        trtexec.infer_command("trtexec", (8, 2, 1), "m.onnx", "e", {"x": "C:/0.bin"}, "o.json")


def test_it_is_looked_for_on_path_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert trtexec.find([str(tmp_path / "missing")]) is None
    if sys.platform != "win32":
        assert trtexec.find([str(tmp_path / "missing"), str(STAND_IN)]) == str(STAND_IN / "trtexec")
        monkeypatch.setenv("PATH", str(STAND_IN))
        assert trtexec.find([]) == str(STAND_IN / "trtexec")
