"""Building for a board that isn't there: a Jetson Nano, from the calibrations that ship, to files that its TensorRT 8.2 takes; and what
they do on a stand-in for the board."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgenas import device
from edgenas.errors import InfeasibleBudget, InputError
from edgenas.onnxio.trt_legality import violations
from edgenas.pipeline.build import build
from edgenas.pipeline.request import BuildRequest
from edgenas.preflight import check_model
from edgenas.progress import Progress
from edgenas.runtimes.calibration_cache import read_cache
from edgenas.runtimes.tensorrt_operators import operators
from tests.test_build import EFFORT, write_photos

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("one_torch_thread")]
STAND_IN = Path(__file__).parent / "stand_in"


@dataclass(frozen=True)
class Built:
    out: Path
    result: dict[str, Any]
    request: BuildRequest

    @property
    def model(self) -> Path:
        return self.out / "model"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("away")
    write_photos(folder / "photos")
    request = BuildRequest(device="jetson-nano", out=folder / "out", data=str(folder / "photos"), effort="quick")
    return Built(request.out, build(request, Progress(quiet=True), effort=EFFORT), request)


def test_nothing_is_called_measured(built: Built) -> None:
    result = built.result
    assert (result["verdict"], result["target"]) == ("not_measured", None)
    for entry in [result["winner"], *result["variants"]]:
        assert entry["measured"] is None
    assert result["winner"]["predicted"]["provenance"] in ("modelled", "calibrated")
    assert {step["provenance"] for step in result["steps"]} <= {"modelled", "calibrated", None}
    page = (built.out / "report.html").read_text(encoding="utf-8")
    assert "Not measured" in page
    assert "p50" not in result["decision"]


def test_fp16_is_chosen_and_the_report_says_why(built: Built) -> None:
    result = built.result
    assert (result["winner"]["precision"], result["winner"]["runtime"]) == ("fp16", "tensorrt")
    assert "FP16 is shipped" in result["decision"]
    notes = device.load("jetson-nano").runtime("tensorrt").precisions
    assert notes["fp16"].note.rstrip(".") in result["decision"]
    assert notes["int8"].note.rstrip(".") in result["decision"]
    assert "FP16 is shipped" in (built.out / "report.html").read_text(encoding="utf-8")


def test_accuracy_names_the_runtime_that_it_was_found_in(built: Built) -> None:
    assert {v["accuracy"]["runtime"] for v in built.result["variants"]} == {"onnxruntime"}


def test_every_file_is_one_that_its_runtime_reads(built: Built) -> None:
    spec = device.load("jetson-nano")
    files = {
        "model.onnx": ("tensorrt", "fp16"),
        "model.fp32.onnx": ("tensorrt", "fp32"),
        "model.int8.onnx": ("onnxruntime", "int8"),
    }
    for name, (runtime, precision) in files.items():
        model = onnx.load(built.model / name)
        onnx.checker.check_model(model, full_check=True)
        assert max(entry.version for entry in model.opset_import) <= 13
        assert model.ir_version == 7
        about = spec.runtime(runtime)
        assert check_model(model, about, runtime, about.version, precision) == []  # type: ignore[arg-type]
    for name in ("model.onnx", "model.fp32.onnx", "model.int8.tensorrt.onnx"):
        used = {node.op_type for node in onnx.load(built.model / name).graph.node}
        assert used <= set(operators((8, 2))), name
    assert violations(onnx.load(built.model / "model.int8.tensorrt.onnx")) == ()


def test_the_calibration_cache_has_a_scale_for_every_tensor(built: Built) -> None:
    version, scales = read_cache((built.model / "calibration.cache").read_text(encoding="utf-8"))
    graph = onnx.load(built.model / "model.onnx").graph
    assert version == 8201
    assert scales.keys() >= {
        graph.input[0].name,
        *(name for node in graph.node for name in node.output if name in scales),
    }
    assert {graph.input[0].name, *(node.output[0] for node in graph.node)} <= scales.keys()


def run_on_board(
    built: Built, folder: Path, *arguments: str, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The folder as it would be copied to the board; on its PATH the stand-in for trtexec."""
    board = shutil.copytree(built.model, folder / "model")
    environment = {"HOME": str(folder), "TRT_STAND_IN_VERSION": "8201", "LANG": "C.UTF-8"}
    environment["PATH"] = path or f"{STAND_IN}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-I", str(board / "on_device.py"), "--seconds", "0.2", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


def test_a_board_without_its_runtime_says_so(built: Built, tmp_path: Path) -> None:
    run = run_on_board(built, tmp_path, path=str(tmp_path))
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("error: tensorrt is not here. trtexec is sought")


def test_outputs_that_are_not_the_golden_ones_are_refused(built: Built, tmp_path: Path) -> None:
    """The stand-in computes no network: what it gives out is not what the model gives."""
    run = run_on_board(built, tmp_path)
    assert run.returncode == 1
    assert run.stdout == ""
    assert "golden" in run.stderr.splitlines()[-1]


def test_what_the_board_prints_is_taken_in_and_decides_the_verdict(built: Built, tmp_path: Path) -> None:
    """The golden outputs are made those of the stand-in, so that the rest of the script runs."""
    out = shutil.copytree(built.out, tmp_path / "out")
    stand_in = Built(out, built.result, built.request)
    np.save(out / "model" / "golden" / "outputs.npy", stand_in_outputs(stand_in, tmp_path / "probe"))
    run = run_on_board(stand_in, tmp_path / "second")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert (found["precision"], found["runtime_version"], found["device"]) == ("fp16", "8.2.1", "jetson-nano")
    assert found["measured"]["n"] >= 200
    (tmp_path / "measured.json").write_text(run.stdout)
    added = edgenas("report", "--add", str(tmp_path / "measured.json"), str(out))
    assert added.returncode == 0, added.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["winner"]["measured"]["p50_ms"] == found["measured"]["p50_ms"]
    budget_ms = result["budgets"][0]["latency_ms"]
    assert result["verdict"] == ("met" if found["measured"]["p50_ms"] <= budget_ms else "not_met")
    assert "Not measured" not in (out / "report.html").read_text(encoding="utf-8").split("<h2")[0]


def stand_in_outputs(built: Built, folder: Path) -> np.ndarray:
    """What the stand-in gives for the golden inputs."""
    board = shutil.copytree(built.model, folder / "model")
    program = (
        "import sys; sys.path.insert(0, 'on_device'); import part;"
        "part.infer('model.onnx', 'golden/inputs.npy', 'found.npy', {'threads': 1, 'precision': 'fp16'})"
    )
    environment = os.environ | {"HOME": str(folder), "TRT_STAND_IN_VERSION": "8201"}
    environment["PATH"] = f"{STAND_IN}{os.pathsep}{environment['PATH']}"
    subprocess.run([sys.executable, "-c", program], cwd=board, env=environment, check=True, timeout=120)
    found: np.ndarray = np.load(board / "found.npy")
    return found


def edgenas(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgenas.cli", *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"device": "jetson-tx2"}, "was measured on device 'jetson-tx2', but the build is for 'jetson-nano'"),
        ({"sha256": "0" * 64}, "is of a model that this build didn't make"),
        ({"kind": "something"}, "is not a benchmark result"),
        ({"measured": {"p50_ms": 0}}, "`measured` must hold p50_ms"),
    ],
)
def test_a_measurement_of_something_else_is_refused(
    built: Built, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    good = {
        "schema": 1,
        "kind": "edgenas benchmark",
        "model": "model.onnx",
        "sha256": "1" * 64,
        "device": "jetson-nano",
        "target": "nano",
        "runtime": "tensorrt",
        "runtime_version": "8.2.1",
        "precision": "fp16",
        "threads": 1,
        "measured": {"p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 1.0, "n": 10, "provenance": "measured"},
    }
    (tmp_path / "m.json").write_text(json.dumps(good | change))
    before = (built.out / "result.json").read_bytes()
    run = edgenas("report", "--add", str(tmp_path / "m.json"), str(built.out))
    assert run.returncode == 2
    assert sentence in run.stderr
    assert (built.out / "result.json").read_bytes() == before


@pytest.fixture(scope="module")
def for_a_pi(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Of a Raspberry Pi 4 only the FP32 latencies are known; the runtime is one that this machine has."""
    out = tmp_path_factory.mktemp("pi") / "out"
    request = BuildRequest(device="raspberry-pi-4", out=out, data=built.request.data, effort="quick")
    return Built(out, build(request, Progress(quiet=True), effort=EFFORT), request)


def test_only_what_is_known_is_chosen_from(for_a_pi: Built) -> None:
    result = for_a_pi.result
    assert (result["verdict"], result["winner"]["precision"]) == ("not_measured", "fp32")
    assert {v["name"]: v["predicted"] is None for v in result["variants"]} == {
        "supernet": False,
        "finetuned": False,
        "int8": True,
    }


def test_the_script_measures_for_real_where_the_runtime_is(for_a_pi: Built, tmp_path: Path) -> None:
    """On this machine, in ONNX Runtime: golden outputs hold, and the measurement is taken in."""
    out = shutil.copytree(for_a_pi.out, tmp_path / "out")
    for name, precision in (("model.onnx", "fp32"), ("model.int8.onnx", "int8")):
        script = [sys.executable, str(out / "model" / "on_device.py"), "--seconds", "0.5"]
        run = subprocess.run([*script, "--model", name, "--precision", precision], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        found = json.loads(run.stdout)
        assert found["golden_max_abs_error"] < (1e-4 if precision == "fp32" else 5)
        assert 0.001 < found["measured"]["p50_ms"] < 50
        (tmp_path / "measured.json").write_text(run.stdout)
        added = edgenas("report", "--add", str(tmp_path / "measured.json"), str(out))
        assert added.returncode == 0, added.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["verdict"] in ("met", "not_met")
    assert all(v["measured"] for v in result["variants"] if v["name"] in ("int8", "finetuned"))


def test_a_changed_model_does_not_pass_the_golden_check(for_a_pi: Built, tmp_path: Path) -> None:
    model = shutil.copytree(for_a_pi.model, tmp_path / "model")
    changed = onnx.load(model / "model.onnx")
    weights = next(t for t in changed.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(-values, weights.name))
    onnx.save(changed, model / "model.onnx")
    run = subprocess.run([sys.executable, str(model / "on_device.py")], capture_output=True, text=True)
    assert run.returncode == 1
    assert "this runtime computes something else" in run.stderr.splitlines()[-1]


def test_a_board_whose_runtime_is_not_known_has_to_be_there(built: Built, tmp_path: Path) -> None:
    request = BuildRequest("jetson-orin-nano", tmp_path / "out", data=built.request.data)
    with pytest.raises(InputError, match=r"tensorrt's version on device 'jetson-orin-nano' has to be detected there"):
        build(request, Progress(quiet=True), effort=EFFORT)
    assert not (tmp_path / "out").exists()


def test_a_board_of_which_nothing_is_known_is_refused_before_images_are_read(tmp_path: Path) -> None:
    request = BuildRequest("raspberry-pi-5", tmp_path / "out", data=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nothing is known of the latencies of device 'raspberry-pi-5' in onnxruntime"):
        build(request, Progress(quiet=True), effort=EFFORT)
    assert not (tmp_path / "out").exists()


def test_a_budget_that_is_predicted_out_of_reach_ends_before_any_training(built: Built, tmp_path: Path) -> None:
    request = BuildRequest("jetson-nano", tmp_path / "out", data=built.request.data, latency_ms=0.01)
    with pytest.raises(InfeasibleBudget, match="the fastest one predicted takes"):
        build(request, Progress(quiet=True), effort=EFFORT)
    assert not list((tmp_path / "out" / "stages").glob("supernet*"))


def test_the_script_for_the_shell_holds_the_commands_of_that_version(built: Built) -> None:
    script = (built.model / "on_device.sh").read_text(encoding="utf-8")
    assert os.access(built.model / "on_device.sh", os.X_OK)
    assert "--onnx=model.onnx" in script
    assert "--fp16" in script
    assert "--buildOnly" in script
    assert "--memPoolSize" not in script
    assert "--calib=calibration.cache" in script
    assert subprocess.run(["sh", "-n", str(built.model / "on_device.sh")]).returncode == 0
