"""The stages after training: INT8, export, the interleaved measurement of every variant, and the choice of what is shipped."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.artifacts.kernel import Precision
from edgenas.artifacts.latency_estimate import LatencyEstimate
from edgenas.artifacts.measurement import Measurement
from edgenas.compress.quantize import Quantization, calibrate
from edgenas.data import Split, balanced_accuracy
from edgenas.errors import GateError
from edgenas.latency.predictor import LatencyPredictor
from edgenas.measure import QUICK, THOROUGH
from edgenas.nets.feed import evaluation_images
from edgenas.nets.module import NetworkModule
from edgenas.network import costs
from edgenas.network.graph import Network
from edgenas.pipeline.context import Build
from edgenas.pipeline.measuring import TRIES
from edgenas.pipeline.specialising import Winner
from edgenas.store import Stage, write_bytes

if TYPE_CHECKING:
    import onnx

MAX_PARITY_ERROR = 1e-3  # of logits between torch and ONNX Runtime, relative to their largest magnitude
BYTES_PER_VALUE: dict[Precision, int] = {"fp32": 4, "int8": 1}


@dataclass(frozen=True)
class Variant:
    """One exported file with its measurements: an entry of result.json's `variants`. `score` is on validation images."""

    name: str
    precision: Precision
    file: str
    score: float
    record: dict[str, Any]


@dataclass(frozen=True)
class Shipment:
    """`variants` were measured in one interleaved run; the last two are the same network in FP32 and INT8."""

    variants: tuple[Variant, ...]
    chosen: Variant
    decision: str
    folder: Path


def ship(build: Build, winner: Winner, predictors: Mapping[Precision, LatencyPredictor]) -> Shipment:
    inputs = [winner.key, build.machine.key, build.dataset.fingerprint, build.request.max_accuracy_drop]
    stage = build.store.stage("export", inputs)
    with build.progress.stage("export", "Quantizing, exporting and measuring", cached=stage.is_done):
        if not stage.is_done:
            stage.finish(_export(build, winner, predictors, stage))
    outcome = stage.outcome()
    variants = tuple(Variant(**entry) for entry in outcome["variants"])
    chosen, decision = choose(variants[-2], variants[-1], build.request.max_accuracy_drop)
    return Shipment(variants, chosen, decision, stage.folder)


def choose(fp32: Variant, int8: Variant, max_drop: float) -> tuple[Variant, str]:
    """The faster one by measured p50, unless INT8 loses more than `max_drop` points of validation accuracy."""
    drop = 100 * (fp32.score - int8.score)
    slow, fast = fp32.record["measured"]["p50_ms"], int8.record["measured"]["p50_ms"]
    lost = (
        f"loses {drop:.2f} points of validation accuracy"
        if drop > 0
        else f"gains {-drop:.2f} points of validation accuracy"
    )
    if drop > max_drop:
        return (
            fp32,
            f"FP32 is shipped: INT8 {lost}, more than the {max_drop:g} allowed. INT8 takes {fast:.3g} ms, FP32 {slow:.3g} ms.",
        )
    if fast >= slow:
        return (
            fp32,
            f"FP32 is shipped: measured in one interleaved run it is faster ({slow:.3g} ms) than INT8 ({fast:.3g} ms).",
        )
    return int8, (
        f"INT8 is shipped: measured in one interleaved run it takes {fast:.3g} ms against {slow:.3g} ms in FP32 "
        f"({slow / fast:.2f} times faster) and {lost} ({max_drop:g} may be lost)."
    )


def _export(
    build: Build, winner: Winner, predictors: Mapping[Precision, LatencyPredictor], stage: Stage
) -> dict[str, Any]:
    runtime = build.machine.bench.runtime
    modules = {"supernet": winner.supernet, "finetuned": winner.fine_tuned}
    if winner.pruned is not None:
        modules["pruned"] = winner.pruned
    build.progress.update(0, 4, "parity with torch")
    models: list[tuple[str, Precision, Network, onnx.ModelProto]] = []
    parity = {}
    for name, module in modules.items():
        model = runtime.fp32_model(module.network, module.folded_weights())
        parity[name] = _parity(build, module, model)
        models.append((name, "fp32", module.network, model))
    build.progress.update(1, 4, "calibrating INT8")
    network = winner.final.network
    quantization = _calibrated(build, winner.final)
    int8 = runtime.int8_model(network, quantization.weights, quantization.ranges, build.machine.weight_bits)
    models.append(("int8", "int8", network, int8))
    build.progress.update(2, 4, "measuring")
    timed = build.machine.bench.time_models([model for *_, model in models], THOROUGH, tries=TRIES)
    variants = []
    for i, ((name, precision, net, model), measured) in enumerate(zip(models, timed, strict=True)):
        build.progress.update(3 + i / len(models), 4, f"accuracy of {name}")
        data = model.SerializeToString()
        file = f"{name}.onnx"
        write_bytes(stage.path(file), data)
        record = _record(build, name, precision, net, model, measured, len(data))
        record["max_abs_error"] = parity.get(name)
        record["predicted"] = _predicted(predictors[precision].estimate(net))
        score = _score(build, model, net, build.dataset.validation)
        variants.append(asdict(Variant(name, precision, file, score, record)))
    return {"variants": variants}


def _calibrated(build: Build, module: NetworkModule) -> Quantization:
    px = module.network.input_shape[2]
    images = evaluation_images(build.dataset, build.dataset.calibration, px).contiguous().numpy()
    return calibrate(module.network, module.folded_weights(), images, weight_bits=build.machine.weight_bits)


def _parity(build: Build, module: NetworkModule, model: onnx.ModelProto) -> float:
    """Largest difference of logits between torch and the target's runtime on validation images. Raises GateError if too large."""
    import torch

    images = evaluation_images(build.dataset, build.dataset.validation, module.network.input_shape[2])[:64]
    with torch.no_grad():
        expected = module.eval()(images).numpy()
    error = float(np.abs(build.machine.bench.infer(model, images.contiguous().numpy()) - expected).max())
    if error > MAX_PARITY_ERROR * max(1.0, float(np.abs(expected).max())):
        raise GateError(
            f"the exported model's logits differ from torch's by up to {error:.3g}",
            "Report this: it is a bug in edgenas.",
        )
    return error


def _record(
    build: Build,
    name: str,
    precision: Precision,
    network: Network,
    model: onnx.ModelProto,
    measured: Measurement,
    size: int,
) -> dict[str, Any]:
    """The fields of DESIGN's `variants` that don't depend on where the file ends up."""
    alone = build.machine.bench.time_models([model], QUICK, fresh_process=True)[0]
    return {
        "name": name,
        "precision": precision,
        "runtime": build.machine.bench.runtime.NAME,
        "accuracy": _accuracy(build, model, network, build.dataset.test),
        "params": costs.params(network),
        "macs": costs.macs(network),
        "size_bytes": size,
        "activation_peak_mib": costs.activation_peak_bytes(network, BYTES_PER_VALUE[precision]) / 2**20,
        "measured": {
            "p50_ms": measured.p50_ms,
            "p90_ms": measured.percentile_ms(90),
            "p99_ms": measured.percentile_ms(99),
            "cpu_ms": measured.cpu_p50_ms,
            "steady_ms": measured.steady_ms(build.machine.bench.quiet_reference_ms or measured.reference_ms),
            "process_peak_mib": alone.peak_rss_mib,
            "energy_mj": None,
            "n": len(measured.samples_ns),
            "provenance": measured.provenance,
            "warnings": list(measured.warnings),
        },
    }


def _predicted(estimate: LatencyEstimate) -> dict[str, Any]:
    return {
        "latency_ms": estimate.latency_ms,
        "low_ms": estimate.low_ms,
        "high_ms": estimate.high_ms,
        "provenance": estimate.provenance,
    }


def _logits(build: Build, model: onnx.ModelProto, network: Network, split: Split) -> np.ndarray:
    images = evaluation_images(build.dataset, split, network.input_shape[2]).contiguous().numpy()
    return build.machine.bench.infer(model, images)


def _accuracy(build: Build, model: onnx.ModelProto, network: Network, split: Split) -> dict[str, Any]:
    """On the exported file, one image at a time, in the target's runtime."""
    predicted = _logits(build, model, network, split).argmax(axis=1)
    return {
        "top1": float((predicted == split.labels).mean()),
        "balanced": balanced_accuracy(predicted, split.labels, len(build.dataset.labels)),
        "n": len(split),
        "runtime": build.machine.bench.runtime.NAME,
    }


def _score(build: Build, model: onnx.ModelProto, network: Network, split: Split) -> float:
    accuracy = _accuracy(build, model, network, split)
    return float(accuracy["balanced"] if build.dataset.unbalanced else accuracy["top1"])


def write_model_folder(build: Build, shipment: Shipment, winner: Winner) -> Path:
    """`model/`: the chosen file as model.onnx, both precisions beside it, and model.json with what an app has to know."""
    from edgenas.store import write_json

    folder = build.request.out / "model"
    folder.mkdir(parents=True, exist_ok=True)
    fp32, int8 = shipment.variants[-2:]
    for variant, file in ((fp32, "model.fp32.onnx"), (int8, "model.int8.onnx"), (shipment.chosen, "model.onnx")):
        temporary = folder / f".{file}"
        shutil.copyfile(shipment.folder / variant.file, temporary)
        temporary.replace(folder / file)
    network = winner.final.network
    dataset = build.dataset
    write_json(
        folder / "model.json",
        {
            "file": "model.onnx",
            "precision": shipment.chosen.precision,
            "input": {
                "name": network.input_name,
                "shape": list(network.input_shape),
                "layout": "NCHW",
                "dtype": "float32",
                "colour_order": "RGB" if dataset.channels == 3 else "grey",
                "scale": "value = (byte / 255 - mean) / std",
                "mean": list(dataset.mean),
                "std": list(dataset.std),
                "resize": f"shorter side to {network.input_shape[2]} px, bilinear with antialiasing, then the centre square",
            },
            "output": {
                "name": network.output_name,
                "shape": list(network.shape_of(network.output_name)),
                "meaning": "logits",
            },
            "labels": list(dataset.labels),
        },
    )
    return folder
