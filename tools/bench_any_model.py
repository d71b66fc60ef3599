"""How well `edgenas predict` answers for networks outside every search space, that nothing was fitted on.

    python tools/bench_any_model.py
    python tools/bench_any_model.py --count 160 --random 40 --json

Profiles generic networks on this machine, as `edgenas profile` does, and predicts: the networks of `known_networks.py`, the light
models of the onnx package and `--random` more generic networks, drawn apart. All are then timed: in FP32 the files as they are, in
INT8 (`--precision int8`) the same graphs with random weights, quantized as a build quantizes; what can't be written so is named.
Beside each figure stands that of a regression on MACs, bytes moved and the number of kernels, fitted on the same networks as the
predictor. Takes about six minutes; needs torch for the known networks.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from known_networks import NETWORKS, UNFOLDED, export, light_models

from edgenas.artifacts.kernel import Precision
from edgenas.errors import EdgenasError
from edgenas.latency import predictor as predictors
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.profile_generic import GenericPlan, candidates, profile_generic
from edgenas.latency.table import LatencyTable
from edgenas.measure import SamplingRule
from edgenas.network.fuse import fuse
from edgenas.network.graph import Network
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.onnxio.read import read
from edgenas.onnxio.write import to_onnx
from edgenas.pipeline.context import Machine, opened_machine
from edgenas.pipeline.profile_command import tables
from edgenas.stats import accuracy_figures

RULE = SamplingRule(warmup_s=0.05, min_count=12, max_count=100, max_s=0.5, chunk=4)
TRIES = 3
OTHER_SEED = 987654321


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--count", default=GenericPlan.count, show_default=True, help="Networks to profile at most.")
@click.option("--random", "random_count", default=40, show_default=True, help="Further generic networks to predict.")
@click.option("--records", type=click.Path(path_type=Path), help="Keep and resume the profile here.")
@click.option("--precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(count: int, random_count: int, records: Path | None, precision: Precision, as_json: bool) -> None:
    with opened_machine("host", None, None) as machine, tempfile.TemporaryDirectory() as folder:
        found = bench(machine, count, random_count, precision, records or Path(folder) / "records.jsonl", Path(folder))
    click.echo(json.dumps(found, indent=2) if as_json else text(found))


def bench(
    machine: Machine, count: int, random_count: int, precision: Precision, path: Path, folder: Path
) -> dict[str, Any]:
    start, load = time.monotonic(), os.getloadavg()[0]
    measured = profile_generic(machine.bench, machine.precisions, GenericPlan(count=count), machine.weight_bits, path)
    seconds = time.monotonic() - start
    table = next(each for each in tables(machine, measured) if each.meta.precision == precision)
    predictor = predictors.fit(table, machine.bench.fusion(precision))
    baseline = Baseline(table)
    rows, not_written = [], []
    for name, network, model in unseen(folder, random_count):
        if precision == "int8":
            try:
                weights, ranges = random_weights(network), random_ranges(network)
                model = machine.bench.runtime.int8_model(network, weights, ranges, machine.weight_bits)
            except (EdgenasError, KeyError) as error:  # a KeyError names the attribute or the weights that are missing
                not_written.append(f"{name}: {' '.join(str(error).split())[:100]}")
                continue
        (timed,) = machine.bench.time_models([model], RULE, tries=TRIES)
        ms = timed.steady_ms(table.meta.quiet_reference_ms)
        rows.append(_row(name, network, ms, predictor, baseline) | {"busy": bool(timed.warnings)})
    groups = {
        "known": [r for r in rows if not r["name"].startswith("random")],
        "random": [r for r in rows if r["name"].startswith("random")],
        "all": rows,
    }
    return {
        "precision": precision,
        "not_written": not_written,
        "networks_profiled": len(table.networks),
        "kernels": len(table.times),
        "profiling_s": seconds,
        "load": [load, os.getloadavg()[0]],
        "figures": {name: _figures(group) for name, group in groups.items() if len(group) > 1},
        "networks": rows,
    }


def unseen(folder: Path, random_count: int) -> Iterator[tuple[str, Network, onnx.ModelProto]]:
    """Name, network and file of each."""
    for name in NETWORKS:
        for unfolded in (False, True) if name in UNFOLDED else (False,):
            path = export(name, folder, unfolded=unfolded)
            yield path.stem, read(path), onnx.load(path)
    for name, path in light_models().items():
        yield f"light {name}", read(path), onnx.load(path)
    for step in range(random_count):
        network = candidates(OTHER_SEED, step)[0]
        yield f"random {step}", network, to_onnx(network, random_weights(network, step))


class Baseline:
    """Latency linear in MACs, bytes and kernels, with no negative rate, fitted on relative errors."""

    def __init__(self, table: LatencyTable) -> None:
        from scipy.optimize import nnls

        ms = np.array([network.ms for network in table.networks])
        design = np.array([self._columns(network.kernels) for network in table.networks]) / ms[:, None]
        scale = design.max(axis=0)
        self._rates = nnls(design / scale, np.ones(len(ms)))[0] / scale

    def latency_ms(self, kernels: tuple[Any, ...]) -> float:
        return float(np.array(self._columns(kernels)) @ self._rates)

    @staticmethod
    def _columns(kernels: tuple[Any, ...]) -> list[float]:
        return [sum(k.macs for k in kernels), sum(k.bytes_moved for k in kernels), len(kernels), 1.0]


def _row(name: str, network: Network, ms: float, predictor: LatencyPredictor, baseline: Baseline) -> dict[str, Any]:
    estimate = predictor.estimate(network)
    kernels = tuple(fused.kernel for fused in fuse(network, predictor.rules, predictor.precision))
    return {
        "name": name,
        "measured_ms": ms,
        "predicted_ms": estimate.latency_ms,
        "low_ms": estimate.low_ms,
        "high_ms": estimate.high_ms,
        "error_pct": 100 * (estimate.latency_ms / ms - 1),
        "baseline_ms": baseline.latency_ms(kernels),
        "share": {source: estimate.share(source) for source in ("table", "model", "formula")},
    }


def _figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    measured = [row["measured_ms"] for row in rows]
    errors = [abs(row["error_pct"]) for row in rows]
    half_widths = [100 * (row["high_ms"] - row["low_ms"]) / 2 / row["predicted_ms"] for row in rows]
    return {
        "predictor": accuracy_figures([row["predicted_ms"] for row in rows], measured),
        "baseline": accuracy_figures([row["baseline_ms"] for row in rows], measured),
        "coverage_80": float(np.mean([row["low_ms"] <= row["measured_ms"] <= row["high_ms"] for row in rows])),
        "half_width_pct": float(np.median(half_widths)),
        "error_p80_pct": float(np.quantile(errors, 0.8)),
    }


def text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['precision']}: {found['networks_profiled']} generic networks profiled in {found['profiling_s']:.0f} s, "
        f"{found['kernels']} kernels; "
        f"load {found['load'][0]:.1f} before, {found['load'][1]:.1f} after",
        "",
        f"{'':30}{'measured':>10}{'predicted':>11}{'error':>8}{'from bytes and MACs':>22}",
    ]
    for row in found["networks"]:
        busy = "  (busy machine)" if row["busy"] else ""
        lines.append(
            f"{row['name']:30}{row['measured_ms']:>10.3f}{row['predicted_ms']:>11.3f}{row['error_pct']:>+8.1f} %"
            f"{row['share']['formula']:>19.1%}{busy}"
        )
    lines += [f"not written, {line}" for line in found["not_written"]]
    for name, figures in found["figures"].items():
        p, b = figures["predictor"], figures["baseline"]
        lines += [
            "",
            f"{name}: {p['within_10pct']:.1%} within 10 %, {p['within_5pct']:.1%} within 5 %, mean error {p['mape_pct']:.1f} %, "
            f"tau {p['kendall_tau']:.3f}",
            f"  MACs and bytes: {b['within_10pct']:.1%} within 10 %, mean error {b['mape_pct']:.1f} %",
            f"  80 % interval: covers {figures['coverage_80']:.0%}, median half-width {figures['half_width_pct']:.1f} %, "
            f"80th percentile of errors {figures['error_p80_pct']:.1f} %",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
