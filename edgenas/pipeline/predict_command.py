"""`edgenas predict`: the latency of any ONNX file from what is known of a device, with its interval and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgenas import device as devices
from edgenas.artifacts.kernel import Precision
from edgenas.artifacts.latency_estimate import LatencyEstimate
from edgenas.latency.stored import predictor_for
from edgenas.network.costs import macs
from edgenas.network.graph import Shape
from edgenas.network.readings import read as network_as_read
from edgenas.onnxio.read import read_model


def predict_file(
    model: Path,
    device: str,
    *,
    runtime: str | None,
    precision: Precision | None,
    threads: int | None,
    input_shape: Shape | None,
) -> dict[str, Any]:
    """Without `precision`, the file's own. Raises InputError for a file that can't be read and for a device that nothing is known of
    in that runtime and precision."""
    spec = devices.load(device)
    read = read_model(model, {"": input_shape} if input_shape else None)
    chosen: Precision = precision or read.precision
    name = runtime or spec.default_runtime
    predictor, source = predictor_for(device, name, chosen, threads or spec.threads)
    # a calibration knows how its device reads a graph; a table holds kernels that ran
    left = network_as_read(read.network, spec.runtime(name).canonical_form) if source.kind == "table" else read.network
    estimate = predictor.estimate(left)
    return {
        "model": str(model),
        "device": device,
        "runtime": name,
        "precision": chosen,
        "threads": threads or spec.threads,
        "macs": macs(read.network),
        "latency_ms": estimate.latency_ms,
        "low_ms": estimate.low_ms,
        "high_ms": estimate.high_ms,
        "provenance": estimate.provenance,
        "from": source.kind,
        "path": str(source.path),
        "share": {source: estimate.share(source) for source in ("table", "model", "formula")},
        "kernels": _rows(estimate),
        "notes": [*read.notes, *estimate.notes],
    }


def _rows(estimate: LatencyEstimate) -> list[dict[str, Any]]:
    return [{**each.kernel.to_row(), "ms": each.ms, "source": each.source} for each in estimate.kernels]
