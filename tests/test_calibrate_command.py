"""`edgenas calibrate`, its benchmark, and the calibrations that ship."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from edgenas.cli import cli
from edgenas.errors import InputError
from edgenas.latency import calibration as calibrations
from edgenas.latency.calibrate import Origin
from edgenas.latency.calibration import CalibratedPredictor
from edgenas.network.costs import params
from edgenas.network.graph import Network
from edgenas.network.readings import depends_on_input
from edgenas.onnxio.random_weights import random_weights
from edgenas.onnxio.write import to_onnx
from edgenas.spaces.cell import NAS_BENCH_201
from edgenas.spaces.mobile import for_data
from tests.made_up_board import cells, device, relative_width

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("EDGENAS_DATA", ROOT.parent / "shared" / "data"))
ORIGIN = Origin("board", "tensorrt", "fp16", 1, "synthetic")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGENAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write_csv(path: Path, lines: list[tuple[str, object]], header: tuple[str, str] = ("network", "ms")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def measured_lines(count: int, seed: int = 0) -> list[tuple[str, object]]:
    rng, found = np.random.default_rng(seed), []
    times_ms = device("live")
    while len(found) < count:
        subnet = NAS_BENCH_201.sample(rng)
        network = NAS_BENCH_201.network(subnet)
        if depends_on_input(network):
            found.append((NAS_BENCH_201.text(subnet), f"{times_ms([network])[0]:.4f}"))
    return found


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["calibrate", "--device", "jetson-nano", *arguments])


def test_the_command_writes_a_calibration_and_says_how_good_it_is(home: Path, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "nets.csv", measured_lines(25))
    result = run("--measured", str(path), "--precision", "fp16")
    assert result.exit_code == 0, result.output
    written = home / "latency_tables" / "jetson-nano" / "tensorrt-fp16-t1.calibration.json"
    assert str(written) in result.output
    assert "within 10 %" in result.output
    assert "read as live" in result.output
    found = calibrations.load(written)
    assert (found.meta.networks, found.meta.source) == (25, "measured networks in nets.csv")


def test_the_command_says_the_same_as_json(home: Path, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "nets.csv", measured_lines(12))
    result = run("--measured", str(path), "--suggest", "2", "--space", "nas-bench-201", "--json")
    found = json.loads(result.output)
    assert found["method"] == "calibration"
    assert found["precision"] == "fp32"
    assert len(found["suggested"]) == 2
    assert not {text for text, _ in measured_lines(12)} & set(found["suggested"])


def test_before_the_first_measurement_it_says_what_to_measure(home: Path, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "nets.csv", [(text, "") for text, _ in measured_lines(30)])
    result = run("--measured", str(path), "--suggest", "4")
    assert result.exit_code == 0, result.output
    assert "Measure these on jetson-nano" in result.stderr
    header, *suggested = result.stdout.splitlines()
    assert header == "network,ms", "standard output is a file for --measured"
    assert len(suggested) == 4
    assert all(line.endswith(",") for line in suggested)
    assert not home.exists()


def test_what_it_says_to_measure_can_be_measured(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    result = run("--suggest", "3", "--space", "nas-bench-201", "--write", str(folder))
    assert result.exit_code == 0, result.output
    paths = [Path(line.removesuffix(",")) for line in result.stdout.splitlines()[1:]]
    assert sorted(paths) == sorted(folder.iterdir())
    session = ort.InferenceSession(paths[0])
    (put,) = session.get_inputs()
    (out,) = session.run(None, {put.name: np.zeros(put.shape, np.float32)})
    assert np.isfinite(out).all()
    again = run("--measured", str(write_csv(tmp_path / "nets.csv", [(str(path), 2.0) for path in paths * 2])))
    assert again.exit_code == 0, again.output


def test_onnx_files_count_from_the_folder_of_the_list(home: Path, tmp_path: Path) -> None:
    space, rng = for_data(28, 1, 10), np.random.default_rng(0)
    folder = tmp_path / "nets"
    folder.mkdir()
    import onnx

    for i in range(6):
        network = space.network(space.sample(rng))
        onnx.save(to_onnx(network, random_weights(network)), folder / f"{i}.onnx")
    path = write_csv(folder / "nets.csv", [(f"{i}.onnx", 1 + i) for i in range(6)])
    result = run("--measured", str(path))
    assert result.exit_code == 0, result.output
    assert "6 networks" in result.output


def test_networks_whose_branches_are_dead_are_left_out(home: Path, tmp_path: Path) -> None:
    dead = NAS_BENCH_201.text(NAS_BENCH_201.subnet((0,) * 6))
    path = write_csv(tmp_path / "nets.csv", [*measured_lines(8), (dead, 1.5)])
    found = json.loads(run("--measured", str(path), "--json").output)
    assert (found["networks"], found["left_out"]) == (8, [dead])


GOOD = NAS_BENCH_201.text(NAS_BENCH_201.largest())
BAD: dict[str, tuple[list[tuple[str, object]], tuple[str, str], str]] = {
    "no column of networks": ([(GOOD, 1)], ("net", "ms"), "line 1: the column 'network' is missing"),
    "no column of ms": ([(GOOD, 1)], ("network", "time"), "line 1: the column 'ms' is missing"),
    "not a number": ([(GOOD, 1), (GOOD, "nan")], ("network", "ms"), "line 3: ms is 'nan'"),
    "infinite": ([(GOOD, "inf")], ("network", "ms"), "line 2: ms is 'inf'"),
    "negative": ([(GOOD, -1)], ("network", "ms"), "line 2: ms is '-1'"),
    "zero": ([(GOOD, 0)], ("network", "ms"), "line 2: ms is '0'"),
    "words": ([(GOOD, "fast")], ("network", "ms"), "line 2: ms is 'fast'"),
    "empty": ([(GOOD, "")], ("network", "ms"), "line 2: ms is empty;"),
    "unknown architecture": ([("|conv_9x9~0|", 1)], ("network", "ms"), "line 2: '|conv_9x9~0|' is no architecture"),
    "no such file": ([("nowhere.onnx", 1)], ("network", "ms"), "line 2: 'nowhere.onnx' is neither a file nor"),
    "not ONNX": ([("text.onnx", 1)], ("network", "ms"), "line 2: "),
    "no rows": ([], ("network", "ms"), "holds no networks"),
    "too few": ([(GOOD, 1)] * 3, ("network", "ms"), "3 networks were measured, but a calibration needs 5"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_list_is_refused_and_nothing_written(home: Path, tmp_path: Path, name: str) -> None:
    lines, header, sentence = BAD[name]
    (tmp_path / "text.onnx").write_text("not a model")
    result = run("--measured", str(write_csv(tmp_path / "nets.csv", lines, header)))
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 2
    assert sentence in result.exception.message
    assert result.output == ""
    assert not home.exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("network,ms\n0110/0001/0001/0000:a,b,1\n", "line 2: it has more fields than line 1 names columns"),
        ("network;ms\nmodel.onnx;1,5\n", "line 1: the column 'network' is missing; there are network;ms"),
    ],
)
def test_a_list_with_more_fields_than_columns_is_refused(home: Path, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "nets.csv").write_text(text)
    result = run("--measured", str(tmp_path / "nets.csv"))
    assert isinstance(result.exception, InputError)
    assert sentence in result.exception.message
    assert "decimal point" in result.exception.hint


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "there is nothing to do"),
        (("--suggest", "3"), "no networks to choose from"),
        (("--measured", "nowhere.csv", "--write", "models"), "--write is where suggested networks go"),
        (("--suggest", "3", "--space", "nosuch"), "there is no space 'nosuch'"),
        (("--measured", "nowhere.csv"), "nowhere.csv can't be read"),
        (("--measured", "nowhere.csv", "--runtime", "nosuch"), "has no runtime 'nosuch'"),
    ],
)
def test_what_can_not_be_done_is_said(home: Path, arguments: tuple[str, ...], sentence: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, InputError)
    assert sentence in result.exception.message
    assert not home.exists()


def test_a_refusal_is_one_sentence_in_the_terminal(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "nets.csv", [(GOOD, -1)])
    done = subprocess.run(
        [sys.executable, "-m", "edgenas.cli", "calibrate", "--device", "jetson-nano", "--measured", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "EDGENAS_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {path}, line 2: ms is '-1'")


@pytest.mark.heavy
def test_the_bench_prints_one_document_and_a_table(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "nets.csv", measured_lines(40), ("architecture", "board"))
    arguments = ["--latency", str(path), "--column", "board", "--samples", "15", "--seeds", "2"]
    tool = [sys.executable, str(ROOT / "tools" / "bench_calibration.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = [
        subprocess.run([*tool, *more], capture_output=True, text=True, check=True, env=environment).stdout
        for more in (["--json"], ["--active"])
    ]
    found = json.loads(printed[0])
    names = {"spearman", "kendall_tau", "within_5pct", "within_10pct", "rmspe_pct"}
    assert names <= found["mean"].keys()
    assert names == found["additive"]["live"].keys()
    assert [each["seed"] for each in found["per_seed"]] == [0, 1]
    assert found["mean"]["within_10pct"] == pytest.approx(np.mean([each["within_10pct"] for each in found["per_seed"]]))
    assert "chosen and fitted" in printed[1]
    assert "additive, live" in printed[1]


# What ships


SHIPPED = sorted((ROOT / "latency_tables").glob("*/*.calibration.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name.split('.')[0]}")
def test_shipped_calibrations_say_where_they_come_from(path: Path) -> None:
    found = calibrations.load(path)
    assert path.name == found.meta.file_name
    assert path.parent.name == found.meta.device
    assert "https://" in found.meta.source
    assert path.stat().st_size < 200_000
    predictor = CalibratedPredictor(found)
    assert [e.provenance for e in predictor.estimates(cells(5))] == ["calibrated"] * 5
    space = for_data(224, 3, 10)
    (unlike,) = predictor.estimates([space.network(space.smallest()[-1])])
    assert unlike.provenance == "modelled"
    assert any("depthwise" in note for note in unlike.notes)
    assert relative_width(unlike) >= 0.5


def test_the_shipped_calibration_of_the_nano_knows_published_figures() -> None:
    """ResNet-18 runs at 90.2 frames a second in FP16 there (torch2trt)."""
    found = calibrations.load(ROOT / "latency_tables" / "jetson-nano" / "tensorrt-fp16-t1.calibration.json")
    estimate = CalibratedPredictor(found).estimate(known_networks()["resnet18"]())
    assert estimate.latency_ms == pytest.approx(1000 / 90.2, rel=0.05)
    assert estimate.provenance == "calibrated"


def test_known_networks_have_their_published_parameters() -> None:
    millions = {"alexnet": 61.1, "vgg16": 138.36, "squeezenet1_0": 1.248, "squeezenet1_1": 1.235, "resnet50": 25.5}
    assert {name: params(known_networks()[name]()) / 1e6 for name in millions} == pytest.approx(millions, rel=0.002)


def known_networks() -> dict[str, Callable[[], Network]]:
    """Those of tools/make_calibrations.py."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        known: dict[str, Callable[[], Network]] = importlib.import_module("make_calibrations").KNOWN
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return known
