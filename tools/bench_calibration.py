"""How well few-shot calibration predicts whole networks: N are drawn and fitted, all the rest is predicted.

    python tools/bench_calibration.py --latency nets.csv --column ms --samples 50
    python tools/bench_calibration.py --latency latency_ms.csv.gz --arch arch.csv.gz --column jetson_tx2 --samples 20 --active --json

FILE is CSV (or .csv.gz) with one row a network: its architecture string in a column `arch_str`, `architecture` or `network`, or an
index in the first column that --arch FILE gives the strings of; and latencies in ms in the column COLUMN (empty: not measured).
Networks whose output doesn't depend on their input are left out.

Per seed and as the mean: spearman, kendall_tau, within_5pct and within_10pct (shares, 0 to 1), rmspe_pct; coverage_80 (share of
measurements inside the 80 % interval) and half_width_ratio (median half-width over the 80th percentile of the absolute error).
Beside them stands, fitted on the same networks, an additive table: operations and adds counted after each reading of the graph,
by least squares of relative errors; its best reading is the best in hindsight. With --active the networks are not drawn but chosen by
`suggest` among 800 drawn ones, before anything is measured.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgenas.latency.calibrate import SUGGEST_AMONG, Origin, Tables, features, fit, suggest
from edgenas.latency.calibration import CalibratedPredictor
from edgenas.latency.feature_table import FeatureTable
from edgenas.network.readings import READINGS, depends_on_input
from edgenas.spaces.architectures import network_of
from edgenas.stats import kendall_tau, spearman, within

ARCHITECTURES = ("arch_str", "architecture", "network")
FIGURES = ("spearman", "kendall_tau", "within_5pct", "within_10pct", "rmspe_pct")


@click.command(
    help=(__doc__ or "").split("\n", 1)[0], epilog="See the head of this file for the columns and the figures."
)
@click.option("--latency", "latency_file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--column", required=True, help="The column of latencies in ms.")
@click.option("--samples", required=True, type=click.IntRange(5), help="Networks to fit.")
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(1))
@click.option(
    "--arch", "arch_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Index -> string."
)
@click.option("--active", is_flag=True, help="Choose the networks instead of drawing them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    latency_file: Path,
    column: str,
    samples: int,
    seeds: int,
    arch_file: Path | None,
    active: bool,
    as_json: bool,
) -> None:
    architectures, ms = read_latencies(latency_file, column, arch_file)
    found = bench(architectures, ms, samples, seeds, active)
    found = {"file": latency_file.name, "column": column, **found}
    click.echo(json.dumps(found, indent=2) if as_json else text(found))


def read_latencies(path: Path, column: str, arch_file: Path | None) -> tuple[list[str], np.ndarray]:
    """Architecture strings and their ms, of the rows that have both."""
    strings: dict[str, str] = {}
    if arch_file is not None:
        strings = {row[next(iter(row))]: row[_architecture_column(row, arch_file)] for row in rows_of(arch_file)}
    architectures, ms = [], []
    for row in rows_of(path):
        if column not in row:
            raise click.UsageError(f"{path} has no column {column!r}; it has {', '.join(row)}")
        if row[column]:
            key = row[next(iter(row))] if strings else row[_architecture_column(row, path)]
            if strings and key not in strings:
                raise click.UsageError(f"{arch_file} has no architecture {key!r}")
            architectures.append(strings.get(key, key))
            ms.append(_positive(row[column], f"{path}, the row of {key!r}"))
    return architectures, np.array(ms)


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        yield from csv.DictReader(file)


def _positive(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise click.UsageError(f"{where}: a latency is {text!r}; a finite number above zero was expected")
    return value


def _architecture_column(row: dict[str, str], path: Path) -> str:
    for name in ARCHITECTURES:
        if name in row:
            return name
    raise click.UsageError(f"{path} has none of the columns {', '.join(ARCHITECTURES)}; with indices, add --arch FILE")


def bench(architectures: list[str], ms: np.ndarray, samples: int, seeds: int, active: bool) -> dict[str, Any]:
    networks = [network_of(architecture) for architecture in architectures]
    alive = np.array([depends_on_input(network) for network in networks])
    tables = features([network for network, lives in zip(networks, alive, strict=True) if lives])
    ms = ms[alive]
    if len(ms) <= samples + 1:
        raise click.UsageError(f"there are {len(ms)} networks; more than --samples {samples} and two are needed")
    per_seed, additive, readings = [], {reading: [] for reading in READINGS}, Counter()
    for seed in range(seeds):
        fitted = choose(tables, len(ms), samples, seed, active)
        rest = np.setdiff1d(np.arange(len(ms)), fitted)
        calibration = fit(rows(tables, fitted), ms[fitted], Origin("", "", "fp32", 1, ""))
        readings[calibration.reading] += 1
        there = CalibratedPredictor(calibration).of_table(tables[calibration.reading].rows(rest))
        half = np.array([each.high_ms - each.low_ms for each in there]) / 2
        predicted = np.array([each.latency_ms for each in there])
        apart = np.abs(predicted - ms[rest])
        inside = [each.low_ms <= m <= each.high_ms for each, m in zip(there, ms[rest], strict=True)]
        per_seed.append(
            {"seed": seed, "reading": calibration.reading, **figures(predicted, ms[rest])}
            | {"coverage_80": float(np.mean(inside))}
            | {"half_width_ratio": float(np.median(half) / np.percentile(apart, 80))}
            | {"calibrated_share": float(np.mean([each.provenance == "calibrated" for each in there]))}
        )
        for reading in READINGS:
            counts = operation_counts(tables[reading])
            additive[reading].append(figures(least_squares(counts[fitted], ms[fitted], counts[rest]), ms[rest]))
    plain = {reading: _mean(each) for reading, each in additive.items()}
    return {
        "networks": len(ms),
        "left_out": int((~alive).sum()),
        "samples": samples,
        "seeds": seeds,
        "active": active,
        "readings": dict(readings),
        "mean": _mean(per_seed),
        "additive": {"best": max(READINGS, key=lambda reading: plain[reading]["within_10pct"]), **plain},
        "per_seed": per_seed,
    }


def choose(tables: Tables, count: int, samples: int, seed: int, active: bool) -> np.ndarray:
    """Indices of the networks to fit."""
    drawn = np.random.default_rng(seed).permutation(count)
    if not active:
        return drawn[:samples]
    pool = drawn[: max(SUGGEST_AMONG, samples)]
    return pool[suggest(rows(tables, pool), samples)]


def rows(tables: Tables, which: np.ndarray) -> Tables:
    return {reading: table.rows(which) for reading, table in tables.items()}


def operation_counts(table: FeatureTable) -> np.ndarray:
    """(N, operations + 1): kernels by family (adds are one), skips, and the constant."""
    names = [name for name in table.work if name.endswith(" kernels")]
    return np.stack([*(table.column(name) for name in (*names, "Identity")), np.ones(len(table))], axis=1)


def least_squares(fitted: np.ndarray, ms: np.ndarray, rest: np.ndarray) -> np.ndarray:
    scale = np.maximum(np.abs(fitted).max(axis=0), 1e-9)
    relative = fitted / scale / ms[:, None]
    coefficients = np.linalg.lstsq(relative, np.ones(len(ms)), rcond=1e-9)[0]
    return rest / scale @ coefficients


def figures(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    return {
        "spearman": spearman(predicted, measured),
        "kendall_tau": kendall_tau(predicted, measured),
        "within_5pct": within(predicted, measured, 5),
        "within_10pct": within(predicted, measured, 10),
        "rmspe_pct": float(np.sqrt(((predicted / measured - 1) ** 2).mean()) * 100),
    }


def _mean(each: list[dict[str, Any]]) -> dict[str, float]:
    return {
        name: float(np.mean([one[name] for one in each])) for name, value in each[0].items() if isinstance(value, float)
    }


def text(found: dict[str, Any]) -> str:
    how = "chosen" if found["active"] else "drawn"
    chosen = ", ".join(f"{reading} {count}" for reading, count in found["readings"].items())
    lines = [
        f"{found['column']} of {found['file']}: {found['samples']} of {found['networks']} networks {how} and fitted, the rest "
        f"predicted; mean of {found['seeds']} seeds",
        f"{found['left_out']} networks whose output doesn't depend on the input are left out; reading: {chosen}",
        "",
        f"{'':28}{'Spearman':>10}{'tau':>8}{'in 5 %':>9}{'in 10 %':>9}{'RMSPE':>9}",
        _row("calibration", found["mean"]),
    ]
    for reading in READINGS:
        best = "  (best)" if reading == found["additive"]["best"] else ""
        lines.append(_row(f"additive, {reading}", found["additive"][reading]) + best)
    mean = found["mean"]
    lines += [
        "",
        f"80 % interval: holds {mean['coverage_80']:.0%}; median half-width {mean['half_width_ratio']:.2f} of the 80th percentile "
        "of the absolute error",
    ]
    return "\n".join(lines)


def _row(name: str, f: dict[str, float]) -> str:
    return (
        f"{name:28}{f['spearman']:>10.3f}{f['kendall_tau']:>8.3f}{f['within_5pct']:>9.1%}{f['within_10pct']:>9.1%}"
        f"{f['rmspe_pct']:>8.1f} %"
    )


if __name__ == "__main__":
    main()
