"""`edgenas bench`: measures one ONNX file on a device, beside what is predicted for it, with accuracy when there is data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts.benchmark_result import BenchmarkResult, figures
from edgenas.artifacts.kernel import Precision
from edgenas.errors import EdgenasError, InputError
from edgenas.latency.stored import predictor_for
from edgenas.measure import THOROUGH, SamplingRule, most_tries
from edgenas.onnxio.read import ReadModel, read_model
from edgenas.pipeline.context import Machine, load_dataset, opened_machine
from edgenas.pipeline.request import EFFORTS
from edgenas.preflight import mended
from edgenas.progress import Progress

if TYPE_CHECKING:
    import onnx

    from edgenas.data import Dataset

# MLPerf Inference, single stream: at least 1,024 queries and 60 s, and the 90th percentile is the one reported
STRICT = SamplingRule(warmup_s=2.0, min_count=1024, max_count=10_000_000, max_s=30.0, chunk=32)
KEPT_OF_PROBE = ("cpu_name", "system", "model", "governor", "power_mode", "clock_mhz", "temperature_c", "load")


def bench_file(
    model: Path,
    device: str,
    progress: Progress,
    *,
    target: str | None,
    runtime: str | None,
    precision: Precision | None,
    threads: int | None,
    data: str | None,
    strict: bool,
) -> dict[str, Any]:
    """Raises InputError for a file that can't be read, or without a target; TargetError for one that the runtime refuses."""
    import onnx

    read = read_model(model, None)
    chosen: Precision = precision or read.precision
    # before measuring, which would be lost where the data is refused
    dataset = _dataset(read, data, progress) if data else None
    with opened_machine(device, target, threads, runtime) as machine:
        spec = machine.spec.runtime(machine.runtime.NAME)
        proto, found = mended(onnx.load(model), spec, machine.runtime.NAME, machine.version, chosen)
        for finding in found:
            progress.warn(f"{finding.what}: {finding.remedy}")
        with progress.stage("bench", f"Measuring on {machine.bench.target.name}", cached=False):
            (measured,) = machine.bench.time_models(
                [proto], STRICT if strict else THOROUGH, precisions=[chosen], tries=1 if strict else most_tries()
            )
            peak_mib = machine.bench.process_peak_mib(proto, precision=chosen)
            energy_mj, energy_source = machine.bench.energy(proto, precision=chosen)
        apart = {
            "process_peak_mib": peak_mib,
            "energy_mj": energy_mj,
            "energy_source": energy_source,
        }
        return BenchmarkResult(
            model=str(model),
            sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
            device=device,
            target=machine.bench.target.name,
            runtime=machine.runtime.NAME,
            runtime_version=machine.version,
            precision=chosen,
            threads=machine.threads,
            measured=figures(measured) | apart,
            predicted=_predicted(machine, read, chosen),
            accuracy=_accuracy(machine, proto, read, chosen, dataset, progress) if dataset else None,
            environment={key: machine.probe.get(key) for key in KEPT_OF_PROBE},
            strict=strict,
        ).to_json()


def _predicted(machine: Machine, read: ReadModel, precision: Precision) -> dict[str, Any] | None:
    """What is predicted from what is known beforehand; None where nothing is."""
    try:
        predictor, _ = predictor_for(machine.spec.id, machine.runtime.NAME, precision, machine.threads)
        estimate = predictor.estimate(read.network)
    except EdgenasError:
        return None
    return {
        "latency_ms": estimate.latency_ms,
        "low_ms": estimate.low_ms,
        "high_ms": estimate.high_ms,
        "provenance": estimate.provenance,
    }


def _dataset(read: ReadModel, data: str, progress: Progress) -> Dataset:
    """Raises InputError where the model takes other images or knows other classes."""
    shape = read.network.input_shape
    if len(shape) != 4 or shape[2] != shape[3]:
        raise InputError(f"accuracy needs one square image as input, but the model takes {shape}", "Leave out --data.")
    dataset = load_dataset(data, EFFORTS["max"], 0, progress)
    classes = read.network.shape_of(read.network.output_name)[-1]
    if (dataset.channels, len(dataset.labels)) != (shape[1], classes):
        raise InputError(
            f"the model takes {shape[1]} channels and knows {classes} classes, but the data has {dataset.channels} and "
            f"{len(dataset.labels)}"
        )
    return dataset


def _accuracy(
    machine: Machine,
    model: onnx.ModelProto,
    read: ReadModel,
    precision: Precision,
    dataset: Dataset,
    progress: Progress,
) -> dict[str, Any]:
    """Of the first output as class scores, on the data's test part."""
    from edgenas.data import balanced_accuracy
    from edgenas.nets.feed import evaluation_images

    through = machine.bench if machine.can_infer else machine.judge
    images = evaluation_images(dataset, dataset.test, read.network.input_shape[2]).contiguous().numpy()
    with progress.stage("accuracy", f"Accuracy on {len(dataset.test):,} images", cached=False):
        found = through.infer(model, images, precision).argmax(axis=1)
    return {
        "top1": float((found == dataset.test.labels).mean()),
        "balanced": balanced_accuracy(found, dataset.test.labels, len(dataset.labels)),
        "n": len(dataset.test),
        "runtime": through.runtime.NAME,
    }
