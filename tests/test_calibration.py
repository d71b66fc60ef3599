"""Few-shot calibration: fits to devices whose costs are known, its files, its intervals, what to measure next, and the command.

A test on published latencies runs where they are: in the folder EDGENAS_DATA, or in one beside the checkout.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.cli import cli
from edgenas.errors import InputError
from edgenas.latency import calibration as calibrations
from edgenas.latency.calibrate import Origin, Tables, features, fit, suggest
from edgenas.latency.calibration import CalibratedPredictor, Calibration
from edgenas.latency.feature_table import columns_of, novelty, tabulate
from edgenas.latency.graph_features import GraphFeatures, graph_features
from edgenas.network.builder import INPUT, Builder
from edgenas.network.costs import params
from edgenas.network.graph import Network
from edgenas.network.readings import READINGS, Reading, depends_on_input, read
from edgenas.onnxio.random_weights import random_weights
from edgenas.onnxio.write import to_onnx
from edgenas.spaces.cell import NAS_BENCH_201
from edgenas.spaces.mobile import for_data

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("EDGENAS_DATA", ROOT.parent / "shared" / "data"))
ORIGIN = Origin("board", "tensorrt", "fp16", 1, "synthetic")
COSTS_MS = {"Conv": 0.2, "AveragePool": 0.05, "Add": 0.02, "Gemm": 0.1, "Zero": 0.03}


def cells(count: int, seed: int = 0) -> list[Network]:
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        network = NAS_BENCH_201.network(NAS_BENCH_201.sample(rng))
        if depends_on_input(network):
            found.append(network)
    return found


def device(reading: Reading, noise: float = 0.01) -> Callable[[list[Network]], np.ndarray]:
    """An additive device that reads graphs so: 2 ms and a cost for each operation; a 3x3 convolution costs three of 1x1."""

    def times_ms(networks: list[Network]) -> np.ndarray:
        rng = np.random.default_rng(1)
        found = []
        for network in networks:
            total = 2.0
            for node in read(network, reading).nodes:
                large = node.op == "Conv" and node.attribute("kernel_shape") == (3, 3)
                total += COSTS_MS.get(node.op, 0.0) * (3 if large else 1) * bool(node.inputs)
            found.append(total * rng.normal(1.0, noise))
        return np.array(found)

    return times_ms


@pytest.fixture(scope="module")
def networks() -> list[Network]:
    return cells(260)


@pytest.fixture(scope="module")
def tables(networks: list[Network]) -> Tables:
    return features(networks)


def rows(tables: Tables, which: np.ndarray | list[int]) -> Tables:
    return {reading: table.rows(np.asarray(which)) for reading, table in tables.items()}


@pytest.fixture(scope="module")
def fitted(networks: list[Network], tables: Tables) -> Calibration:
    return fit(rows(tables, np.arange(40)), device("live")(networks)[:40], ORIGIN)


@pytest.mark.parametrize("reading", READINGS)
def test_a_device_that_adds_is_found_out_and_how_it_reads_graphs(
    networks: list[Network], tables: Tables, reading: Reading
) -> None:
    ms = device(reading)(networks)
    found = fit(rows(tables, np.arange(40)), ms[:40], ORIGIN)
    assert found.reading == reading
    predicted, _ = found.predict(tables[reading].rows(np.arange(40, len(ms))))
    assert np.mean(np.abs(predicted / ms[40:] - 1) <= 0.05) > 0.97


def test_intervals_hold_what_they_promise(networks: list[Network], tables: Tables, fitted: Calibration) -> None:
    ms = device("live")(networks)[40:]
    predicted, half = fitted.predict(tables["live"].rows(np.arange(40, len(networks))))
    apart = np.abs(predicted - ms)
    assert 0.65 <= np.mean(apart <= half) <= 0.95
    assert np.median(half) <= 1.7 * np.percentile(apart, 80)


def test_what_the_graph_does_to_costs_is_learnt(networks: list[Network], tables: Tables) -> None:
    """A device that merges convolutions of one input: an additive table can't know."""
    merged = tables["live"].column("siblings Conv 3x3")
    ms = 2 + 0.2 * merged + 0.05 * tables["live"].column("Conv 1x1 kernels")
    found = fit(rows(tables, np.arange(60)), ms[:60], ORIGIN)
    predicted, _ = found.predict(tables[found.reading].rows(np.arange(60, len(ms))))
    assert np.mean(np.abs(predicted / ms[60:] - 1) <= 0.05) > 0.95


def test_one_network_measured_on_a_busy_machine_does_not_spoil_the_fit(networks: list[Network], tables: Tables) -> None:
    ms = device("live")(networks)
    spoilt = ms[:40].copy()
    spoilt[7] *= 2
    found = fit(rows(tables, np.arange(40)), spoilt, ORIGIN)
    predicted, _ = found.predict(tables["live"].rows(np.arange(40, len(ms))))
    assert np.mean(np.abs(predicted / ms[40:] - 1) <= 0.05) > 0.95
    assert found.diagonal[7] == max(found.diagonal)


def test_fitting_is_deterministic_and_survives_the_disk(
    networks: list[Network], tables: Tables, fitted: Calibration, tmp_path: Path
) -> None:
    again = fit(rows(tables, np.arange(40)), device("live")(networks)[:40], ORIGIN)
    one, other = calibrations.save(fitted, tmp_path / "a"), calibrations.save(again, tmp_path / "b")
    assert one.read_bytes() == other.read_bytes()
    assert one.name == "tensorrt-fp16-t1.calibration.json"
    loaded = calibrations.load(one)
    assert calibrations.save(loaded, tmp_path / "c").read_bytes() == one.read_bytes()
    for network in networks[40:45]:
        assert CalibratedPredictor(loaded).estimate(network) == CalibratedPredictor(fitted).estimate(network)


def test_an_estimate_does_not_depend_on_what_is_asked_with_it(networks: list[Network], fitted: Calibration) -> None:
    predictor = CalibratedPredictor(fitted)
    together = predictor.estimates(networks[40:50])
    alone = [predictor.estimate(network) for network in networks[40:50]]
    assert [e.latency_ms for e in together] == pytest.approx([e.latency_ms for e in alone], rel=1e-9)


def test_loading_needs_numpy_alone(fitted: Calibration, tmp_path: Path) -> None:
    path = calibrations.save(fitted, tmp_path)
    program = (
        "import sys; from pathlib import Path; from edgenas.latency.calibration import load, CalibratedPredictor\n"
        "from edgenas.spaces.cell import NAS_BENCH_201 as s\n"
        f"p = CalibratedPredictor(load(Path({str(path)!r}))); print(p.latency_ms(s.network(s.largest())))\n"
        "print(*[m for m in ('scipy', 'sklearn', 'onnx', 'torch') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    ms, loaded = run.stdout.splitlines()
    assert float(ms) > 2
    assert loaded == ""


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"weights": [1.0]},
        {"weights": None},
        {"domain_ms": []},
        {"scale_ms": 0},
        {"reading": "sideways"},
        {"interval": float("nan")},
        {"meta": {}},
        {"columns": {}},
    ],
    ids=str,
)
def test_files_that_do_not_hold_together_are_refused(
    fitted: Calibration, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = calibrations.save(fitted, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"calibration\.json") as error:
        calibrations.load(path)
    assert "edgenas calibrate" in error.value.hint


def test_networks_like_the_measured_ones_are_calibrated(networks: list[Network], fitted: Calibration) -> None:
    estimates = CalibratedPredictor(fitted).estimates(networks[40:])
    inside = [e for e in estimates if e.provenance == "calibrated"]
    assert len(inside) > 0.9 * len(estimates)
    assert all(e.low_ms < e.latency_ms < e.high_ms and not e.notes for e in inside)


def test_what_was_never_measured_is_modelled_wider_and_named(networks: list[Network], fitted: Calibration) -> None:
    space = for_data(32, 3, 10)
    estimate = CalibratedPredictor(fitted).estimate(space.network(space.smallest()[-1]))
    assert estimate.provenance == "modelled"
    assert any("never measured: " in note and "depthwise" in note for note in estimate.notes)
    usual = CalibratedPredictor(fitted).estimate(networks[40])
    assert _relative(estimate) > 2 * _relative(usual)
    wider = replace(NAS_BENCH_201, widths=(32, 64, 128))
    estimate = CalibratedPredictor(fitted).estimate(wider.network(wider.largest()))
    assert estimate.provenance == "modelled"
    assert any("sizes never measured" in note for note in estimate.notes)


def _relative(estimate: Any) -> float:
    return float((estimate.high_ms - estimate.low_ms) / estimate.latency_ms)


@pytest.mark.parametrize("ms", [[1.0] * 3, [1.0] * 5 + [0.0], [1.0] * 5 + [float("nan")], [1.0] * 5 + [-2.0]])
def test_what_can_not_be_fitted_is_refused(tables: Tables, ms: list[float]) -> None:
    with pytest.raises(InputError):
        fit(rows(tables, np.arange(len(ms))), ms, ORIGIN)


def test_five_networks_of_any_kind_can_be_fitted() -> None:
    space, rng = for_data(28, 1, 10), np.random.default_rng(0)
    networks = [space.network(space.sample(rng)) for _ in range(5)]
    found = fit(features(networks), [1.0, 2.0, 3.0, 4.0, 5.0], ORIGIN)
    assert all(np.isfinite(e.latency_ms) and e.latency_ms > 0 for e in CalibratedPredictor(found).estimates(networks))


def test_networks_of_another_kind_of_space_are_predicted_too() -> None:
    space, rng = for_data(32, 3, 10), np.random.default_rng(0)
    networks = [space.network(space.sample(rng)) for _ in range(120)]
    table = features(networks)
    ms = np.array(
        [2 + sum(v for n, v in graph_features(x)["live"].work.items() if n.endswith("MACs")) / 2e7 for x in networks]
    )
    found = fit(rows(table, np.arange(60)), ms[:60], ORIGIN)
    predicted, _ = found.predict(table[found.reading].rows(np.arange(60, 120)))
    assert np.mean(np.abs(predicted / ms[60:] - 1) <= 0.1) > 0.8


class TestFeatures:
    @given(genome=st.tuples(*(st.integers(0, 4) for _ in range(6))))
    def test_isomorphic_cells_have_the_same(self, genome: tuple[int, ...]) -> None:
        """Nodes 1 and 2 change places where nothing leads from one to the other. (Constants are another matter: what is a single
        zero at node 1 is a sum of two at node 2.)"""
        e10, e20, _, e30, e31, e32 = genome
        one, other = (e10, e20, 0, e30, e31, e32), (e20, e10, 0, e30, e32, e31)
        found = [
            graph_features(NAS_BENCH_201.network(NAS_BENCH_201.subnet(g)), ("live",))["live"] for g in (one, other)
        ]
        assert _nonzero(found[0].work) == pytest.approx(_nonzero(found[1].work))
        assert _nonzero(found[0].structure) == pytest.approx(_nonzero(found[1].structure))

    def test_shared_necks_and_siblings(self) -> None:
        b = Builder((1, 4, 8, 8))
        stem = b.conv("stem", INPUT, 4, 3)
        left = b.conv("left", b.activation("relu1", stem), 4, 3)
        right = b.conv("right", b.activation("relu2", stem), 4, 3)
        network = b.finish(b.conv("end", b.activation("relu3", b.add("add", left, right)), 4, 3))
        found = graph_features(network)["as_written"]
        assert found.work["Conv 3x3 kernels"] == 4
        assert found.structure["siblings Conv 3x3"] == 3
        assert found.structure["shared Conv 3x3"] == 2
        assert found.structure["neck Conv 3x3"] == 4
        assert found.structure["activations"] == 2  # both ReLUs of the stem are one
        assert found.structure["depth"] == found.structure["depth convolutions"] == 3
        assert found.structure["paths"] == pytest.approx(np.log(2))

    def test_columns_that_say_the_same_are_kept_once(self) -> None:
        each = [GraphFeatures({"a kernels": n, "a MACs": 7 * n + 3, "b kernels": 4}, {"s": -n}) for n in (1, 2, 5)]
        columns = columns_of(tabulate(each))
        assert columns.names == ("a MACs",)
        assert columns.constants == {"b kernels": 4.0}
        assert columns.ties["a kernels"].slope == pytest.approx(1 / 7)
        assert columns.ties["s"].slope == pytest.approx(-1 / 7)
        assert columns.ties["s"].offset == pytest.approx(3 / 7)

    def test_a_kind_that_is_new_is_told_from_one_that_is_known(self) -> None:
        known = columns_of(tabulate([GraphFeatures({"a values moved": n}, {}) for n in (1, 2, 5)]))
        (new,) = novelty(known, tabulate([GraphFeatures({"a values moved": 3, "b values moved": 1}, {})]))
        assert new.families == ("b",)
        assert new.share == pytest.approx(0.25)
        (usual,) = novelty(known, tabulate([GraphFeatures({"a values moved": 3}, {})]))
        assert usual.is_none


def _nonzero(values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value and not name.startswith("zero")}


class TestSuggest:
    @settings(max_examples=5)
    @given(count=st.integers(1, 12), known=st.integers(0, 6))
    def test_suggestions_are_distinct_and_the_first_do_not_depend_on_how_many(
        self, tables: Tables, count: int, known: int
    ) -> None:
        measured = rows(tables, np.arange(known)) if known else None
        pool = rows(tables, np.arange(100, 200))
        found = suggest(pool, count, measured)
        assert len(set(found)) == count
        assert found[: count // 2] == suggest(pool, count // 2, measured)

    def test_no_more_than_there_are(self, tables: Tables) -> None:
        assert len(suggest(rows(tables, np.arange(7)), 20)) == 7

    def test_what_is_measured_is_not_suggested_again(self, tables: Tables) -> None:
        pool = rows(tables, np.arange(60))
        first = suggest(pool, 10)
        assert not set(suggest(pool, 10, rows(pool, first))) & set(first)

    def test_chosen_networks_teach_more_than_drawn_ones(self, networks: list[Network], tables: Tables) -> None:
        ms = device("live", noise=0.02)(networks)
        errors = {}
        for name, which in {"chosen": suggest(tables, 12), "drawn": list(range(12))}.items():
            predicted, _ = fit(rows(tables, which), ms[which], ORIGIN).predict(tables["live"])
            errors[name] = float(np.sqrt(np.mean((predicted / ms - 1) ** 2)))
        assert errors["chosen"] < errors["drawn"]


# What a real device shows, of published latencies that are not part of the project.


def published(column: str) -> tuple[list[Network], np.ndarray]:
    latencies, architectures = DATA / "nb201_latency_ms.csv.gz", DATA / "nb201_arch.csv.gz"
    if not latencies.is_file() or not architectures.is_file():
        pytest.skip(f"the published latencies are not in {DATA} (EDGENAS_DATA names another folder)")
    with gzip.open(architectures, "rt", newline="") as file:
        strings = {row["arch_idx"]: row["arch_str"] for row in csv.DictReader(file)}
    with gzip.open(latencies, "rt", newline="") as file:
        timed = [(strings[row["arch_idx"]], float(row[column])) for row in csv.DictReader(file) if row[column]]
    return [NAS_BENCH_201.network(NAS_BENCH_201.parse(text)) for text, _ in timed], np.array([ms for _, ms in timed])


@pytest.mark.parametrize(
    ("column", "samples", "least"), [("jetson_nano_fp16", 50, 0.95), ("jetson_nano_fp32", 20, 0.94)]
)
def test_a_published_board(column: str, samples: int, least: float) -> None:
    networks, ms = published(column)
    tables = features(networks)
    shares, covered = [], []
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(ms))
        found = fit(rows(tables, order[:samples]), ms[order[:samples]], ORIGIN)
        predicted, half = found.predict(tables[found.reading].rows(order[samples:]))
        apart = np.abs(predicted - ms[order[samples:]])
        shares.append(np.mean(apart <= 0.1 * ms[order[samples:]]))
        covered.append(np.mean(apart <= half))
    assert np.mean(shares) >= least
    assert 0.7 <= np.mean(covered) <= 0.92


# The command


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
    lines = result.output.splitlines()
    suggested = lines[lines.index("network,ms") + 1 :]
    assert len(suggested) == 4
    assert all(line.endswith(",") for line in suggested)
    assert not home.exists()


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
    "empty": ([(GOOD, "")], ("network", "ms"), "line 2: ms is 'empty'"),
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
    ("arguments", "sentence"),
    [
        ((), "there is nothing to do"),
        (("--suggest", "3"), "no networks to choose from"),
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
    assert _relative(unlike) >= 0.5


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
