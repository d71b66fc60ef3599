"""`edgenas predict`: the latency of any ONNX file from a device's latency table, with its interval and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgenas import device as devices
from edgenas.artifacts.kernel import PRECISIONS, Precision
from edgenas.artifacts.latency_estimate import LatencyEstimate
from edgenas.errors import InputError
from edgenas.latency import predictor as predictors
from edgenas.latency import table
from edgenas.network.costs import macs
from edgenas.network.graph import Shape
from edgenas.onnxio.read import read_model
from edgenas.runtimes.runtime import load_runtime


def predict_file(
    model: Path, device: str, *, precision: Precision | None, threads: int | None, input_shape: Shape | None
) -> dict[str, Any]:
    """Without `precision`, the file's own. Raises InputError for a file that can't be read and for a device without such a table."""
    spec = devices.load(device)
    read = read_model(model, {"": input_shape} if input_shape else None)
    chosen: Precision = precision or read.precision
    runtime = load_runtime(spec.default_runtime)
    found = table.load(_table_path(device, f"{runtime.NAME}-{chosen}-t{threads or spec.threads}.csv"))
    rules = runtime.fusion(chosen, found.meta.machine.get("isa", ()))
    estimate = predictors.fit(found, rules).estimate(read.network)
    return {
        "model": str(model),
        "device": device,
        "runtime": f"{found.meta.runtime} {found.meta.runtime_version}",
        "precision": chosen,
        "threads": found.meta.threads,
        "macs": macs(read.network),
        "latency_ms": estimate.latency_ms,
        "low_ms": estimate.low_ms,
        "high_ms": estimate.high_ms,
        "provenance": estimate.provenance,
        "share": {source: estimate.share(source) for source in ("table", "model", "formula")},
        "kernels": _rows(estimate),
        "notes": [*read.notes, *estimate.notes],
    }


def _table_path(device: str, name: str) -> Path:
    folders = [kind("latency_tables") / device for kind in (devices.user_folder, devices.shipped)]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    there = sorted(
        {path.stem for folder in folders for path in folder.glob("*.csv") if _precision_of(path) in PRECISIONS}
    )
    raise InputError(
        f"device {device!r} has no latency table {name.removesuffix('.csv')}; it has {', '.join(there) or 'none'}",
        f"Measure one on the device: edgenas profile --device {device}.",
    )


def _precision_of(path: Path) -> str:
    return path.stem.split("-")[-2] if path.stem.count("-") >= 2 else ""


def _rows(estimate: LatencyEstimate) -> list[dict[str, Any]]:
    return [{**each.kernel.to_row(), "ms": each.ms, "source": each.source} for each in estimate.kernels]
