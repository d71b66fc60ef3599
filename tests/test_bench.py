"""`edgenas bench` and `edgenas doctor`, from the command line, on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from edgenas.artifacts.benchmark_result import BenchmarkResult
from edgenas.errors import InputError
from edgenas.measure import most_tries
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.onnxio.write import to_onnx
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces.mobile import for_data

pytestmark = pytest.mark.alone

SPACE = for_data(28, 1, 10)
NETWORK = SPACE.network(SPACE.largest())


def edgenas(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "edgenas.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "a model; $(x).onnx"
    onnx.save(to_onnx(NETWORK, random_weights(NETWORK)), path)
    return path


@pytest.mark.heavy
def test_one_document_holds_what_was_measured(model: Path) -> None:
    run = edgenas("bench", str(model), "--device", "host", "--json")
    assert run.returncode == 0, run.stderr
    found = BenchmarkResult.from_json(json.loads(run.stdout), "stdout")
    assert (found.device, found.target, found.runtime, found.precision) == ("host", "local", "onnxruntime", "fp32")
    assert found.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert 0 < found.measured["p50_ms"] <= found.measured["p90_ms"] <= found.measured["p99_ms"]
    assert found.measured["n"] >= 300
    assert found.measured["provenance"] == "measured"
    assert found.accuracy is None


@pytest.mark.heavy
def test_accuracy_is_found_where_there_is_data(tmp_path: Path) -> None:
    model = load_runtime("onnxruntime").int8_model(NETWORK, random_weights(NETWORK), random_ranges(NETWORK), 8)
    onnx.save(model, tmp_path / "int8.onnx")
    run = edgenas("bench", "int8.onnx", "--device", "host", "--data", "bundled", cwd=tmp_path)
    assert run.returncode == 2, "there is no such data"
    sample = Path(__file__).parents[1] / "datasets" / "fashion-mnist-sample"
    run = edgenas("bench", "int8.onnx", "--device", "host", "--data", f"fashion-mnist:{sample}", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "(measured, int8, " in run.stdout
    assert "on 10,000 images" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("bench", "none.onnx", "--device", "host"), "none.onnx"),
        (("bench", "{model}", "--device", "jetson-nano"), "no --target to measure it on"),
        (("bench", "{model}", "--device", "coral-edge-tpu"), "nothing can be measured on device 'coral-edge-tpu'"),
        (("bench", "{model}", "--device", "host", "--target", "ssh://"), "is not an address of a host"),
        (("bench", "{model}", "--device", "host", "--runtime", "tensorrt"), "has no runtime 'tensorrt'"),
        (("doctor", "--target", "telnet:x"), "no target understands"),
    ],
)
def test_bad_input_is_one_sentence(model: Path, arguments: tuple[str, ...], sentence: str) -> None:
    run = edgenas(*(argument.format(model=model) for argument in arguments))
    if arguments[0] == "doctor":  # it lists what it finds, and this is one of the findings
        assert run.returncode == 1
        assert sentence in run.stdout
        return
    assert run.returncode == 2
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    (said,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert sentence in said


def test_doctor_looks_at_this_machine_and_a_target() -> None:
    run = edgenas("doctor", "--target", "local", "--json")
    lines = json.loads(run.stdout)
    assert {line["where"] for line in lines} >= {"Ways to devices", "local"}
    assert {line["what"] for line in lines} >= {"Python", "torch", "onnxruntime", "device", "ssh", "adb", "trtexec"}
    assert {line["state"] for line in lines} <= {"good", "note", "bad"}
    assert run.returncode == any(line["state"] == "bad" for line in lines)
    assert all(line["remedy"] for line in lines if line["state"] == "bad")
    text = edgenas("doctor").stdout
    assert "This machine" in text
    assert "ok    Python: 3." in text


@pytest.mark.parametrize("text", ["0", "-1", "many", ""])
def test_tries_that_are_no_number_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("EDGENAS_TRIES", text)
    with pytest.raises(InputError, match=f"EDGENAS_TRIES is '{text}'"):
        most_tries()


def test_tries_are_five_or_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGENAS_TRIES", "2")
    assert most_tries() == 2
    monkeypatch.delenv("EDGENAS_TRIES")
    assert most_tries() == 5
