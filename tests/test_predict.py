"""`edgenas predict`, from the command line, on files that others might bring."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgenas.cli import cli
from edgenas.errors import InputError
from edgenas.latency import table
from edgenas.latency.table import KernelTime, LatencyTable, TableMeta, TimedNetwork
from edgenas.network.fuse import fuse
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces.mobile import for_data
from tests.odd_models import ALL, FILES

ISA = ("avx2", "avx512f")
REFUSED = {"batch_of_4", "dynamic_sides", "dynamic_everything", "if"}
NS_A_MAC, NS_A_BYTE, OVERHEAD_MS = 0.02, 0.05, 0.002


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's folder with a table of a device that is a roofline."""
    folder = tmp_path_factory.mktemp("home")
    space, rng = for_data(32, 3, 10), np.random.default_rng(0)
    rules = load_runtime("onnxruntime").fusion("fp32", ISA)
    networks = [
        tuple(fused.kernel for fused in fuse(space.network(space.sample(rng)), rules, "fp32")) for _ in range(40)
    ]
    times = {k: (k.macs * NS_A_MAC + k.bytes_moved * NS_A_BYTE) / 1e6 + OVERHEAD_MS for each in networks for k in each}
    meta = TableMeta("host", "onnxruntime", "1.32", "fp32", 1, space.id, 0.1, {"isa": ISA})
    timed = tuple(TimedNetwork(each, sum(times[k] for k in each)) for each in networks)
    (folder / "latency_tables" / "host").mkdir(parents=True)
    table.save(
        LatencyTable(meta, {k: KernelTime(ms, ms, ms, 4) for k, ms in sorted(times.items())}, timed),
        folder / "latency_tables" / "host",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_HOME", str(folder))
        yield folder


def predicted(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["predict", *map(str, arguments), "--device", "host", "--json"])
    if result.exception is not None:
        raise result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def written(folder: Path, name: str) -> Path:
    path = folder / f"{name}.onnx"
    path.write_bytes(ALL[name]().SerializeToString())
    return path


@pytest.mark.parametrize("name", sorted(set(ALL) - REFUSED))
def test_every_model_gets_an_answer_that_says_where_it_comes_from(name: str, tmp_path: Path) -> None:
    found = predicted(written(tmp_path, name), "--precision", "fp32")
    assert found["latency_ms"] > 0
    assert 0 <= found["low_ms"] <= found["latency_ms"] <= found["high_ms"]
    assert np.isclose(sum(found["share"].values()), 1)
    assert found["provenance"] in ("calibrated", "modelled")
    unknown = {row["op"] for row in found["kernels"] if row["source"] == "formula"}
    if unknown:
        assert found["provenance"] == "modelled"
        note = next(note for note in found["notes"] if note.startswith("never measured"))
        assert all(op in note for op in unknown)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_has_no_one_latency_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        predicted(written(tmp_path, name))
    assert str(tmp_path / f"{name}.onnx") in error.value.message


@pytest.mark.parametrize(
    ("name", "said"), [("half", "float16"), ("double", "float64"), ("custom_domain", "is not known")]
)
def test_what_had_to_be_assumed_is_said(name: str, said: str, tmp_path: Path) -> None:
    notes = predicted(written(tmp_path, name), "--precision", "fp32")["notes"]
    assert any(said in note for note in notes), notes


def test_a_shape_can_be_given(tmp_path: Path) -> None:
    path = written(tmp_path, "dynamic_sides")
    small, large = (predicted(path, "--input-shape", shape) for shape in ("1x3x32x32", "1x3x64x64"))
    assert large["latency_ms"] > small["latency_ms"]
    assert large["macs"] > small["macs"]


@pytest.mark.parametrize("name", ["truncated", "not_onnx", "empty"])
def test_what_is_no_onnx_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not an ONNX file, or was cut short"):
        predicted(FILES[name](tmp_path))


def test_a_precision_without_a_table_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no calibration onnxruntime-int8-t1; it has onnxruntime-fp32-t1") as error:
        predicted(written(tmp_path, "grouped_conv"), "--precision", "int8")
    assert "edgenas profile --device host" in error.value.hint


def test_the_command_prints_what_people_want_to_know(tmp_path: Path) -> None:
    path = written(tmp_path, "grouped_conv")
    command = [sys.executable, "-m", "edgenas.cli", "predict", str(path), "--device", "host"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second, *_ = result.stdout.splitlines()
    assert "80 % confidence" in first
    assert second == "fp32 on host, onnxruntime, 1 thread"
    assert "Conv" in result.stdout
    assert not result.stderr


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("x86-64-avx512-vnni", "fp32"),
        ("x86-64-avx512-vnni", "int8"),
        ("jetson-nano", "fp16"),
        ("jetson-nano", "fp32"),
        ("raspberry-pi-4", "fp32"),
    ],
)
def test_what_is_shipped_answers(device: str, precision: str, tmp_path: Path) -> None:
    path = written(tmp_path, "grouped_conv")
    result = CliRunner().invoke(
        cli, ["predict", str(path), "--device", device, "--precision", precision, "--json"], catch_exceptions=False
    )
    found = json.loads(result.stdout)
    assert found["from"] == ("table" if device.startswith("x86") else "calibration")
    assert 0 < found["low_ms"] <= found["latency_ms"] <= found["high_ms"]
    described = CliRunner().invoke(cli, ["devices", device]).stdout
    assert f"-{precision}-t1: " in described
