"""A real, tiny build in each space that `--space` takes besides the default one: from photos to a model that was measured."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edgenas.pipeline.build import build
from edgenas.pipeline.request import BuildRequest
from edgenas.progress import Progress
from edgenas.spaces.trainable import NAMES, space_for
from tests.test_build import EFFORT, MAX_PX, write_photos

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("one_torch_thread")]

ROOMY_MS = 50.0


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spaces") / "photos"
    write_photos(folder)
    return folder


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mobile"])
def test_a_winner_is_trained_exported_and_measured(name: str, photos: Path, tmp_path: Path) -> None:
    request = BuildRequest("host", tmp_path / "out", data=str(photos), latency_ms=ROOMY_MS, space=name, effort="quick")
    result = build(request, Progress(quiet=True), effort=EFFORT)
    winner = result["winner"]
    assert winner["measured"]["p50_ms"] > 0
    assert result["verdict"] == (
        "met" if winner["measured"]["p50_ms"] <= result["budgets"][0]["latency_ms"] else "not_met"
    )
    assert result["architecture"]
    assert 0 <= winner["accuracy"]["top1"] <= 1
    model = onnx.load(tmp_path / "out" / "model" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (tmp_path / "out" / "model" / "on_device.py").is_file()


GATES = f"""\
space: mobile
resolutions_px: [{MAX_PX}]
downsampling: [[2, 2, 1]]
stages:
- {{types: [mbconv], depths: [1], kernels: [3, 7], expands: [1, 2], widths: [16, 32]}}
- {{types: [mbconv, plain], depths: [1], kernels: [3], expands: [2], widths: [32]}}
activations: [hard_swish]
squeeze_excite: [true]
"""


def test_a_space_file_is_built_and_written_again(photos: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "gates.yaml", tmp_path / "out"
    file.write_text(GATES)
    request = BuildRequest("host", out, data=str(photos), latency_ms=ROOMY_MS, space=str(file), effort="quick")
    result = build(request, Progress(quiet=True), effort=EFFORT)
    assert result["winner"]["measured"]["p50_ms"] > 0
    assert "squeeze-excite" in result["architecture"][2]
    ops = {node.op_type for node in onnx.load(out / "model" / "model.onnx").graph.node}
    assert {"HardSigmoid", "Mul", "GlobalAveragePool"} <= ops
    locked = json.loads((out / "edgenas.lock.json").read_text())["space"]
    assert space_for(str(out / "space.yaml"), MAX_PX, 3, 2).id == space_for(str(file), MAX_PX, 3, 2).id == locked
