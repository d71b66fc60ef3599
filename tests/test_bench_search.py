"""The replay of searches on published figures: what counts as a success, what is left out, and that runs can be put together."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgenas.network.costs import macs
from edgenas.network.readings import depends_on_input, live
from edgenas.spaces.cell import NAS_BENCH_201 as CELLS

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("EDGENAS_DATA", ROOT.parent / "shared" / "data"))
TOOL = ROOT / "tools" / "bench_search.py"
COUNT = 90


def bench(*arguments: str, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOOL), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Networks of which the more accurate have more MACs, on a board where that takes longer, but for the dead ones and for those
    that were not measured: these would be the best of all."""
    folder = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(0)
    subnets = list(dict.fromkeys(CELLS.sample(rng) for _ in range(COUNT)))
    dead = CELLS.parse("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    rows = []
    for i, subnet in enumerate([*dict.fromkeys([*subnets, dead])]):
        network = CELLS.network(subnet)
        size = macs(live(network)) / 1e6
        alive, measured = depends_on_input(network), i % 10 > 0
        accuracy = 60 + size / 10 if alive and measured else 99
        rows.append((i, CELLS.text(subnet), accuracy, (1 + size / 50) if measured else ""))
    for name, title, column in (("arch", "arch_str", 1), ("accuracy", "top1", 2), ("latency", "board", 3)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("index", title), *((row[0], row[column]) for row in rows)])
    names = ("--arch", "arch.csv", "--accuracy", "accuracy.csv", "--latency", "latency.csv")
    paths = (name if name.startswith("--") else str(folder / name) for name in names)
    return (*paths, "--accuracy-column", "top1", "--column", "board")


@pytest.fixture(scope="module")
def found(files: tuple[str, ...]) -> dict[str, Any]:
    strategies = ("--strategy", "macs", "--strategy", "random", "--strategy", "guided")
    return json.loads(
        bench(*files, *strategies, "--quantile", "0.6", "--limit", "1000", "--seeds", "3", "--cap", "30", "--json")
    )


def test_what_was_not_measured_and_what_is_dead_is_left_out(found: dict[str, Any]) -> None:
    limited, quantile = found["settings"]
    assert limited["limit_ms"] == 1000
    assert limited["networks"] < COUNT * 0.95
    assert 0.6 * limited["networks"] <= quantile["networks"] < 0.8 * limited["networks"]  # several take equally long
    assert 70 < limited["best"] < 99
    assert quantile["best"] < limited["best"]


def test_the_figures_are_those_of_the_runs(found: dict[str, Any]) -> None:
    assert found["strategies"]["macs"]["mean_queries"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["strategies"]["macs"]["regret"]["25"]["mean"] == pytest.approx(0, abs=1e-9)
    assert set(found["strategies"]) == {"macs", "random", "guided"}
    for each in found["strategies"].values():
        queries = [[run["queries"] or 30 for run in setting] for setting in each["runs"]]
        succeeded = [run["queries"] is not None for setting in each["runs"] for run in setting]
        assert each["mean_queries"]["mean"] == pytest.approx(np.mean(queries))
        assert each["median_queries"] == np.median(queries)
        assert each["success"] == np.mean(succeeded)
        assert each["worst_setting"] == pytest.approx(np.mean(queries, axis=1).max())
        for setting in each["runs"]:
            for run in setting:
                assert run["queries"] is None or 1 <= run["queries"] <= 30
                assert run["regret"] == sorted(run["regret"], reverse=True)
                assert (run["queries"] is None or run["queries"] > 25) == (run["regret"][0] > 0.5)
    assert found["strategies"]["random"]["success"] < 1
    assert found["strategies"]["guided"]["mean_queries"]["mean"] < found["strategies"]["random"]["mean_queries"]["mean"]


def test_a_seed_is_a_run_and_runs_can_be_added(files: tuple[str, ...], found: dict[str, Any], tmp_path: Path) -> None:
    common = (*files, "--quantile", "0.6", "--limit", "1000", "--seeds", "3", "--cap", "30")
    before = tmp_path / "before.json"
    before.write_text(bench(*common, "--strategy", "random", "--json", "--processes", "2"), encoding="utf-8")
    again = json.loads(bench(*common, "--strategy", "macs", "--add", str(before), "--json"))
    for name in ("random", "macs"):
        assert again["strategies"][name] == found["strategies"][name]
    table = bench(*common, "--add", str(before))
    assert f"random{'':8}" in table
    assert "board <= 1000 ms" in table
    refused = bench(*common[:-1], "20", "--add", str(before), code=2)
    assert "was made with other cap: 30, and here they are 20" in " ".join(refused.split())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--limit", "0.5"), "no network of board takes at most 0.5 ms"),
        ((), "name a --limit in ms or a --quantile"),
        (("--column", "desk", "--limit", "5"), "has no column 'desk'; it has index, board"),
    ],
)
def test_what_cannot_be_replayed_is_said(files: tuple[str, ...], changed: tuple[str, ...], said: str) -> None:
    assert said in " ".join(bench(*files, "--strategy", "macs", *changed, code=2).split())


@pytest.mark.heavy
def test_on_a_real_device_the_guided_search_needs_a_fraction_of_the_queries() -> None:
    names = ("latency_ms", "accuracy", "arch")
    paths = [DATA / f"nb201_{name}.csv.gz" for name in names]
    if not all(path.is_file() for path in paths):
        pytest.skip(f"no published latencies in {DATA}; EDGENAS_DATA names their folder")
    latency, accuracy, arch = map(str, paths)
    files = (
        "--latency",
        latency,
        "--accuracy",
        accuracy,
        "--arch",
        arch,
        "--accuracy-column",
        "cifar100_test_acc_200ep",
    )
    setting = ("--column", "adreno640", "--quantile", "0.25", "--quantile", "0.5")
    strategies = ("--strategy", "random", "--strategy", "guided")
    found = json.loads(bench(*files, *setting, *strategies, "--seeds", "3", "--json"))["strategies"]
    assert found["guided"]["success"] == 1
    assert found["guided"]["mean_queries"]["mean"] < 0.5 * found["random"]["mean_queries"]["mean"]
    assert found["guided"]["versus_random"]["25"]["mean"] < 0
