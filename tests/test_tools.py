"""The benchmark tools run, print one JSON document whose figures are plausible, and print them for people."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgenas.latency.profile import ProfilePlan
from edgenas.pipeline.context import opened_machine
from edgenas.pipeline.measuring import profile_inputs, run_profile
from edgenas.progress import Progress
from edgenas.spaces.mobile import for_data
from edgenas.store import Store

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {"mape_pct", "within_5pct", "within_10pct", "kendall_tau", "n_held_out"}
SAVED = {"predicted_saved_ms", "saved_ms", "steady_saved_ms", "steady_saved_share", "macs_removed"}


def run_tool(name: str, *options: str) -> str:
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{name}.py"), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def document(name: str, *options: str) -> dict[str, Any]:
    """The tool's JSON, its numbers all finite."""
    found: dict[str, Any] = json.loads(run_tool(name, *options, "--json"))
    assert all(math.isfinite(number) for number in numbers(found))
    return found


def text(name: str, found: dict[str, Any]) -> str:
    """What the tool prints without --json."""
    printed: str = importlib.import_module(name).text(found)
    return printed


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


def test_bench_predictor() -> None:
    found = document(
        "bench_predictor", "--covering", "6", "--odd", "2", "--held-out", "3", "--batch", "2000", "--special", "1"
    )
    assert found.keys() >= {
        "cpu",
        "runtime_version",
        "threads",
        "px",
        "channels",
        "plan",
        "measuring_s",
        "load",
        "speed",
    }
    assert found["plan"] == {"covering": 6, "odd": 2, "held_out": 3, "seed": 0}
    assert found["failed"] == []
    assert found["precisions"].keys() == {"fp32", "int8"}
    for entry in found["precisions"].values():
        assert entry["predictor"].keys() >= FIGURES | {"coverage_80"}
        for figures in (entry["predictor"], entry["noise_floor"], *entry["baselines"].values()):
            assert figures.keys() >= FIGURES
            assert figures["n_held_out"] == 3
            assert 0 <= figures["within_5pct"] <= figures["within_10pct"] <= 1
            assert -1 <= figures["kendall_tau"] <= 1
            assert figures["mape_pct"] > 0
        assert entry["baselines"].keys() == {"macs", "macs_bytes", "per_operation"}
        assert entry["networks_fitted"] == 8
        assert entry["kernels"] > 20
        low, middle, high = entry["latency_ms"]
        assert 0 < low <= middle <= high < 100
    speed = found["speed"]
    assert speed["batch"] == 2000
    assert 0 < speed["cold_subnets_per_s"] < speed["warm_subnets_per_s"]
    printed = text("bench_predictor", found)
    for row in ("predictor", "the same, measured again", "affine in MACs", "affine in MACs and bytes"):
        assert re.search(rf"^INT8 {row} +\d+\.\d\d %", printed, re.MULTILINE)


def test_bench_int8() -> None:
    found = document("bench_int8", "--px", "32", "--seconds", "0.5")
    assert (found["px"], found["convs"]) == (32, 52)
    assert 3.4e6 < found["params"] < 3.6e6, "MobileNetV2 1.0 has 3.5 M"
    assert found["files"].keys() == {"fp32", "int8-w8", "int8-w7"}
    for name, file in found["files"].items():
        assert 0 < file["p50_ms"] <= file["p90_ms"]
        assert file["ratio_to_fp32"] > 0
        assert file["n"] >= 100
        convolutions = (file["qlinear_convs"], file["float_convs"])
        assert convolutions == ((0, 52) if name == "fp32" else (52, 0)), name
    assert found["files"]["fp32"]["ratio_to_fp32"] == 1
    assert found["files"]["int8-w8"]["size_bytes"] < found["files"]["fp32"]["size_bytes"] / 3
    assert "Every convolution runs quantized in INT8: yes" in text("bench_int8", found)


@pytest.fixture(scope="module")
def finished_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of a profile as a build leaves it behind, of grey images of 28 px."""
    store = Store(tmp_path_factory.mktemp("profile"))
    space, plan = for_data(28, 1, 10), ProfilePlan(covering=10, odd=4, held_out=0)
    with opened_machine("host", None, None) as machine:
        stage = store.stage("profile", profile_inputs(space, machine, plan))
        run_profile(space, machine, plan, stage, Progress(quiet=True))
    store.close()
    return stage.path("records.jsonl")


@pytest.mark.parametrize("is_finished", [False, True], ids=["profiles first", "takes records"])
def test_bench_pruning(finished_records: Path, is_finished: bool) -> None:
    profile = ("--records", str(finished_records)) if is_finished else ("--covering", "10", "--odd", "4")
    before = sorted(finished_records.parent.iterdir())
    found = document("bench_pruning", *profile, "--subnets", "1", "--importance-limit", "0.4")
    assert sorted(finished_records.parent.iterdir()) == before
    (row,) = found["subnets"]
    assert 0 < row["channels_removed"] < row["channels"]
    assert row["channels_removed"] % 4 == 0
    assert row["before_ms"] > 0
    assert row["planned"]["predicted_saved_ms"] > 0
    for name in ("planned", "uniform", "uniform_single"):
        assert row[name].keys() == SAVED
        assert abs(row[name]["saved_ms"]) < row["before_ms"]
        assert 0 < row[name]["macs_removed"] < row["macs"]
        assert found["mean"][name] == row[name]
    assert re.search(r"^mean .*\d", text("bench_pruning", found), re.MULTILINE)


def test_bench_search_speed() -> None:
    found = document("bench_search_speed", "--candidates", "3000", "--covering", "6", "--odd", "2")
    assert found["precisions"] == ["fp32", "int8"]
    assert 1000 < found["distinct"] <= found["candidates"] == 3000
    assert found["cpu_s"].keys() == {"sample", "mutate", "cross", "predict_cold", "predict_warm"}
    assert 0 < found["cpu_s"]["predict_warm"] < found["cpu_s"]["predict_cold"] < found["total_cpu_s"] < 60
    evolution = found["evolution"]
    assert 3000 <= evolution["proposed"] < 3000 + 64
    assert 64 < evolution["evaluated"] < evolution["proposed"]
    assert 0 < evolution["cpu_s"] < 60
    assert re.search(r"^ +evolution +\d+\.\d\d s of CPU", text("bench_search_speed", found), re.MULTILINE)


def test_bench_supernet() -> None:
    options = ("plain", "transforms+shrinking", "ema=0.9+E2")
    asked = [part for option in options for part in ("--option", option)]
    found = document("bench_supernet", "--epochs", "1", "--images", "256", "--subnets", "3", "--steps", "1", *asked)
    assert found["options"].keys() == set(options)
    for name, row in found["options"].items():
        assert row["epochs"] == len(row["largest_losses"]) == (2 if "E2" in name else 1)
        assert 0 < row["cpu_s"] < 120
        assert 0 < row["lowest"] <= row["mean_accuracy"] <= row["highest"] < 1
        mean, low, high = row["difference"]
        assert low <= mean <= high
        assert mean == pytest.approx(row["mean_accuracy"] - found["options"]["plain"]["mean_accuracy"])
    assert {"channels first, float32", "channels_last, float32"} <= found["arithmetic"].keys()
    assert re.search(r"^plain +1 .* \+0.00 \(\+0.00 to \+0.00\)$", text("bench_supernet", found), re.MULTILINE)


@pytest.mark.parametrize(
    "name", ["bench_predictor", "bench_int8", "bench_pruning", "bench_search_speed", "bench_supernet"]
)
def test_help_says_what_is_measured(name: str) -> None:
    shown = run_tool(name, "--help")
    docstring = (ROOT / "tools" / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    assert docstring.splitlines()[0] in " ".join(shown.split())
    assert f"python tools/{name}.py" in docstring
    assert "--json" in shown
