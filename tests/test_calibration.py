"""Few-shot calibration: fits to devices whose costs are known, its files, its intervals, and what to measure next.

A test on published latencies runs where they are: in the folder EDGENAS_DATA, or in one beside the checkout.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.errors import InputError
from edgenas.latency import calibration as calibrations
from edgenas.latency.calibrate import Origin, Tables, features, fit, suggest
from edgenas.latency.calibration import CalibratedPredictor, Calibration
from edgenas.latency.feature_table import columns_of, novelty, tabulate
from edgenas.latency.graph_features import GraphFeatures, graph_features
from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network
from edgenas.network.readings import READINGS, Reading
from edgenas.spaces.cell import NAS_BENCH_201
from edgenas.spaces.mobile import for_data
from tests.made_up_board import cells, device, relative_width

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("EDGENAS_DATA", ROOT.parent / "shared" / "data"))
ORIGIN = Origin("board", "tensorrt", "fp16", 1, "synthetic")


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
    assert CalibratedPredictor(loaded).correction == CalibratedPredictor(fitted).correction
    again = replace(fitted, weights=1.01 * fitted.weights)
    assert CalibratedPredictor(again).correction != CalibratedPredictor(fitted).correction, "caches would mix them up"


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
    assert relative_width(estimate) > 2 * relative_width(usual)
    wider = replace(NAS_BENCH_201, widths=(32, 64, 128))
    estimate = CalibratedPredictor(fitted).estimate(wider.network(wider.largest()))
    assert estimate.provenance == "modelled"
    assert any("sizes never measured" in note for note in estimate.notes)


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
