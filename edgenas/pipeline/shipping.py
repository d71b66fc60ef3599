"""The stages after training: INT8, export, the interleaved measurement of every variant, and the choice of what is shipped."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.artifacts.kernel import BYTES_PER_VALUE, Precision
from edgenas.artifacts.latency_estimate import LatencyEstimate
from edgenas.artifacts.measurement import Measurement
from edgenas.artifacts.verdict import broken
from edgenas.compress.quantize import Quantization
from edgenas.data import Split
from edgenas.errors import GateError
from edgenas.latency.calibration import CalibratedPredictor
from edgenas.latency.predictor import LatencyPredictor
from edgenas.measure import THOROUGH, Bench, most_tries
from edgenas.nets.feed import evaluation_images
from edgenas.nets.module import NetworkModule
from edgenas.network import costs
from edgenas.network.graph import Network
from edgenas.pipeline import budgets
from edgenas.pipeline.context import JUDGE, Build
from edgenas.pipeline.judging import accuracy, calibrated, difference_error, predicted_classes, score
from edgenas.pipeline.specialising import Winner
from edgenas.runtimes.runtime import load_runtime
from edgenas.store import Stage, write_bytes, write_text

if TYPE_CHECKING:
    import onnx
    import torch

MAX_PARITY_ERROR = 1e-3  # of logits between torch and ONNX Runtime, relative to their largest magnitude
ROUNDING_ALLOWANCE = 8.0  # times torch's own distance from float64
UNSURE_ERRORS = 1.64  # standard errors by which chance alone raises a loss in one of twenty cases
QUICK_OPENING_S = 60.0  # a runtime that opens files within this time is asked for every step, not just for the last
SHORT = {"onnxruntime": "", "tensorrt": "trt-"}  # in the names of variants
Predictor = LatencyPredictor | CalibratedPredictor


@dataclass(frozen=True)
class Variant:
    """One exported file with its figures: an entry of result.json's `variants`. `score` is on validation images, and `score_error` the
    standard error of its difference from the FP32 file's before it; `eligible`: it may be what is shipped, being the final network
    in a precision that is worth it in the device's runtime."""

    name: str
    precision: Precision
    runtime: str
    file: str
    score: float
    score_error: float
    eligible: bool
    record: dict[str, Any]


@dataclass(frozen=True)
class Shipment:
    """What could be timed was, in one interleaved run. `calibration_cache`: the file for implicit INT8, or None."""

    variants: tuple[Variant, ...]
    chosen: Variant
    decision: str
    folder: Path
    calibration_cache: str | None = None

    @property
    def eligible(self) -> tuple[Variant, ...]:
        return tuple(v for v in self.variants if v.eligible)

    def named(self, name: str) -> Variant:
        return next(v for v in self.variants if v.name == name)

    @property
    def fp32(self) -> Variant:
        """The final network in FP32."""
        return next(v for v in reversed(self.variants) if v.precision == "fp32")


@dataclass(frozen=True)
class _Exported:
    """A file before anything is known of it."""

    name: str
    precision: Precision
    runtime: str
    network: Network
    model: onnx.ModelProto
    eligible: bool
    parity: float | None = None


def ship(build: Build, winner: Winner, predictors: Mapping[Precision, Predictor], budget_ms: float) -> Shipment:
    inputs = [winner.key, build.machine.key, build.dataset.fingerprint, UNSURE_ERRORS]
    stage = build.store.stage("export", inputs)
    what = "Quantizing, exporting and measuring" if build.machine.reached else "Quantizing and exporting"
    with build.progress.stage("export", what, cached=stage.is_done):
        if not stage.is_done:
            stage.finish(_export(build, winner, predictors, stage))
    outcome = stage.outcome()
    variants = tuple(Variant(**entry) for entry in outcome["variants"])
    fp32 = next(v for v in reversed(variants) if v.precision == "fp32")
    eligible = [v for v in variants if v.eligible]
    # a file that breaks another budget is only shipped when all of them do
    asked = budgets.asked(build)
    fitting = [v for v in eligible if not broken(v.record, asked)]
    chosen, decision = choose(fp32, fitting or eligible, build.request.max_accuracy_drop, budget_ms)
    decision += _why_not(build, {v.precision for v in eligible})
    return Shipment(variants, chosen, decision, stage.folder, outcome["calibration_cache"])


def choose(fp32: Variant, eligible: Sequence[Variant], max_drop: float, budget_ms: float) -> tuple[Variant, str]:
    """The fastest of those that lose at most `max_drop` points of validation accuracy against FP32: by measured p50, or by prediction
    where nothing could be measured. Where all of those miss the budget, one that meets it and loses so little more that the validation
    images can't tell. Where all lose too much, the most accurate."""
    measured = all(v.record["measured"] for v in eligible)
    ms = {v.name: v.record["measured"]["p50_ms"] if measured else v.record["predicted"]["latency_ms"] for v in eligible}
    within = [v for v in eligible if 100 * (fp32.score - v.score) <= max_drop]
    unsure = [
        v
        for v in eligible
        if v not in within and 100 * (fp32.score - v.score - UNSURE_ERRORS * v.score_error) <= max_drop
    ]
    if not _meet(within, ms, budget_ms) and (meeting := _meet(unsure, ms, budget_ms)):
        chosen = min(meeting, key=lambda v: ms[v.name])
        return chosen, (
            f"{chosen.precision.upper()} is shipped: nothing else meets the budget of {budget_ms:.3g} ms, and it "
            f"{_lost(fp32, chosen)}, give or take {100 * chosen.score_error:.2f} by the choice of images, which doesn't show "
            f"that more than {max_drop:g} is lost."
        )
    chosen = min(within, key=lambda v: ms[v.name]) if within else max(eligible, key=lambda v: v.score)
    name, how = chosen.precision.upper(), "measured in one interleaved run" if measured else "by prediction"
    others = [v for v in eligible if v is not chosen]
    if not others:
        lost = "" if chosen.score == fp32.score else f" and {_lost(fp32, chosen)}"
        takes = (
            f"it takes {ms[chosen.name]:.3g} ms" if measured else f"predicted: {ms[chosen.name]:.3g} ms, not measured"
        )
        return chosen, f"{name} is shipped, {takes}{lost}."
    other = min(others, key=lambda v: ms[v.name])
    fast, slow = ms[chosen.name], ms[other.name]
    if other not in within:
        return chosen, (
            f"{name} is shipped: {other.precision.upper()} {_lost(fp32, other)}, more than the {max_drop:g} allowed. "
            f"{other.precision.upper()} takes {slow:.3g} ms, {name} {fast:.3g} ms."
        )
    if chosen is fp32 or chosen.precision == "fp32":
        return chosen, (
            f"{name} is shipped: {how} it is faster ({fast:.3g} ms) than {other.precision.upper()} ({slow:.3g} ms)."
        )
    return chosen, (
        f"{name} is shipped: {how} it takes {fast:.3g} ms against {slow:.3g} ms in {other.precision.upper()} "
        f"({slow / fast:.2f} times faster) and {_lost(fp32, chosen)} ({max_drop:g} may be lost)."
    )


def _meet(variants: Sequence[Variant], ms: Mapping[str, float], budget_ms: float) -> list[Variant]:
    return [v for v in variants if ms[v.name] <= budget_ms]


def _lost(fp32: Variant, other: Variant) -> str:
    drop = 100 * (fp32.score - other.score)
    verb = "loses" if drop > 0 else "gains"
    return f"{verb} {abs(drop):.2f} points of validation accuracy"


def _why_not(build: Build, eligible: set[Precision]) -> str:
    """What the device's description says of the precisions that are worth it, and of those that aren't."""
    machine = build.machine
    known = machine.spec.runtime(machine.runtime.NAME).precisions
    if len(eligible) > 1:
        return ""
    reasons = [
        f" {name.upper()}: {each.note.rstrip('.')}." for name, each in known.items() if each.note and name != "fp32"
    ]
    return "".join(reasons)


def _export(build: Build, winner: Winner, predictors: Mapping[Precision, Predictor], stage: Stage) -> dict[str, Any]:
    machine = build.machine
    build.progress.update(0, 4, "parity with torch")
    exported = [*_in_fp32(build, winner)]
    build.progress.update(1, 4, "calibrating INT8")
    quantization = calibrated(build, winner.final)
    exported += _in_other_precisions(build, winner, exported[-1], quantization)
    build.progress.update(2, 4, "measuring" if machine.reached else "writing")
    timed = _timed(build, exported)
    variants, in_fp32 = [], np.empty(0)
    for i, each in enumerate(exported):
        build.progress.update(3 + i / len(exported), 4, f"accuracy of {each.name}")
        data = each.model.SerializeToString()
        file = f"{each.name}.onnx"
        write_bytes(stage.path(file), data)
        record = _record(build, each, len(data), timed.get(each.name))
        if each.precision in predictors and each.runtime == machine.runtime.NAME:
            record["predicted"] = _predicted(predictors[each.precision].estimate(each.network))
        validation = build.dataset.validation
        predicted = _predicted_classes(build, each, validation)
        if each.precision == "fp32":
            in_fp32 = predicted
        validated = score(build, accuracy(build, predicted, validation, _judge(build, each)))
        error = difference_error(build, predicted, in_fp32, validation)
        # what was neither measured nor can be predicted is not compared with what was
        eligible = each.eligible and bool(record["measured"] or record["predicted"])
        variants.append(
            asdict(Variant(each.name, each.precision, each.runtime, file, validated, error, eligible, record))
        )
    cache = machine.runtime.calibration_cache(winner.final.network, quantization.ranges, machine.version)
    if cache is not None:
        write_text(stage.path("calibration.cache"), cache)
    return {"variants": variants, "calibration_cache": "calibration.cache" if cache is not None else None}


def _in_fp32(build: Build, winner: Winner) -> Iterator[_Exported]:
    modules = {"supernet": winner.supernet, "finetuned": winner.fine_tuned}
    if winner.pruned is not None:
        modules["pruned"] = winner.pruned
    machine = build.machine
    for name, module in modules.items():
        model = machine.runtime.fp32_model(module.network, module.folded_weights())
        eligible = module is winner.final and "fp32" in machine.precisions
        yield _Exported(
            name, "fp32", machine.runtime.NAME, module.network, model, eligible, _parity(build, module, model)
        )


def _in_other_precisions(
    build: Build, winner: Winner, fp32: _Exported, quantization: Quantization
) -> Iterator[_Exported]:
    """INT8 for ONNX Runtime always: the CPU of every device takes it. What the device's own runtime takes besides."""
    machine, network = build.machine, winner.final.network
    runtime, known = machine.runtime, machine.spec.runtime(machine.runtime.NAME).precisions
    if "fp16" in known and "fp16" in runtime.PRECISIONS:
        yield replace(fp32, name=f"{SHORT[runtime.NAME]}fp16", precision="fp16", eligible="fp16" in machine.precisions)
    for each in dict.fromkeys((load_runtime(JUDGE).NAME, runtime.NAME)):
        model = load_runtime(each).int8_model(network, quantization.weights, quantization.ranges, machine.weight_bits)
        eligible = each == runtime.NAME and "int8" in machine.precisions
        yield _Exported(f"{SHORT[each]}int8", "int8", each, network, model, eligible)


def _timed(build: Build, exported: Sequence[_Exported]) -> dict[str, Measurement]:
    """All that may be shipped, and with a runtime that opens a file at once every step on the way as well."""
    machine = build.machine
    if not machine.reached:
        return {}
    quick = machine.runtime.OPENING_LIMIT_S <= QUICK_OPENING_S
    chosen = [e for e in exported if e.runtime == machine.runtime.NAME and (e.eligible or quick)]
    found = machine.bench.time_models(
        [e.model for e in chosen], THOROUGH, precisions=[e.precision for e in chosen], tries=most_tries()
    )
    return {e.name: measurement for e, measurement in zip(chosen, found, strict=True)}


def _parity(build: Build, module: NetworkModule, model: onnx.ModelProto) -> float:
    """parity_error on 64 validation images."""
    images = evaluation_images(build.dataset, build.dataset.validation, module.network.input_shape[2])[:64]
    return parity_error(module, images, build.machine.judge.infer(model, images.contiguous().numpy()))


def parity_error(module: NetworkModule, images: torch.Tensor, found: np.ndarray) -> float:
    """Largest difference between `module`'s logits for (N, C, H, W) images and those (N, classes) `found` with the exported model.
    Raises GateError if it is too large, also beside what float32 loses in this network: one that a supernet left with dead channels
    amplifies rounding errors."""
    import torch

    with torch.no_grad():
        expected = module.eval()(images).numpy()
    error = float(np.abs(found - expected).max())
    if error <= MAX_PARITY_ERROR * max(1.0, float(np.abs(expected).max())):
        return error
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(images.double()).numpy()
    if error > ROUNDING_ALLOWANCE * float(np.abs(expected - exact).max()):
        raise GateError(
            f"the exported model's logits differ from torch's by up to {error:.3g}",
            "Report this: it is a bug in edgenas.",
        )
    return error


def _record(build: Build, exported: _Exported, size: int, measured: Measurement | None) -> dict[str, Any]:
    """The fields of `variants` that don't depend on where the file ends up."""
    network, test = exported.network, build.dataset.test
    peak_bytes = costs.activation_peak_bytes(network, BYTES_PER_VALUE[exported.precision])
    return {
        "name": exported.name,
        "precision": exported.precision,
        "runtime": exported.runtime,
        "accuracy": accuracy(build, _predicted_classes(build, exported, test), test, _judge(build, exported)),
        "params": costs.params(network),
        "macs": costs.macs(network),
        "size_bytes": size,
        "activation_peak_mib": peak_bytes / 2**20,
        "max_abs_error": exported.parity,
        "predicted": None,
        "measured": _measured(build, exported, measured) if measured else None,
    }


def _measured(build: Build, exported: _Exported, measured: Measurement) -> dict[str, Any]:
    bench = build.machine.bench
    energy_mj, energy_source = bench.energy(exported.model, precision=exported.precision)
    return {
        "p50_ms": measured.p50_ms,
        "p90_ms": measured.percentile_ms(90),
        "p99_ms": measured.percentile_ms(99),
        "cpu_ms": measured.cpu_p50_ms,
        "steady_ms": measured.steady_ms(bench.quiet_reference_ms or measured.reference_ms),
        "process_peak_mib": bench.process_peak_mib(exported.model, precision=exported.precision),
        "energy_mj": energy_mj,
        "energy_source": energy_source,
        "n": len(measured.samples_ns),
        "provenance": measured.provenance,
        "warnings": list(measured.warnings),
    }


def _predicted(estimate: LatencyEstimate) -> dict[str, Any]:
    return {
        "latency_ms": estimate.latency_ms,
        "low_ms": estimate.low_ms,
        "high_ms": estimate.high_ms,
        "provenance": estimate.provenance,
    }


def _predicted_classes(build: Build, exported: _Exported, split: Split) -> np.ndarray:
    px = exported.network.input_shape[2]
    return predicted_classes(build, exported.model, split, px, _judge(build, exported), exported.precision)


def _judge(build: Build, exported: _Exported) -> Bench:
    """The device where the file's engine may be shipped, else ONNX Runtime, which is named."""
    machine = build.machine
    return machine.bench if exported.eligible and machine.can_infer else machine.judge
