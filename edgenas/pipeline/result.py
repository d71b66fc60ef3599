"""`result.json` and `edgenas.lock.json` from what the stages found."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

from edgenas import __version__, data
from edgenas.artifacts.verdict import of_all, verdict
from edgenas.pipeline import budgets
from edgenas.pipeline.context import SCHEMA, Build
from edgenas.pipeline.measuring import Feasibility, Profile
from edgenas.pipeline.other_devices import Other
from edgenas.pipeline.own_model import described
from edgenas.pipeline.searching import Searched
from edgenas.pipeline.shipping import Shipment, Variant
from edgenas.pipeline.specialising import Winner
from edgenas.store import file_hash, write_json

TITLES = {
    "supernet": "Straight from the supernet",
    "finetuned": "Trained on its own",
    "pruned": "Pruned on the latency staircase",
    "int8": "Quantized to INT8",
    "trt-fp16": "Built in FP16",
    "trt-int8": "Quantized to INT8 for TensorRT",
}
PACKAGES = ("torch", "onnx", "onnxruntime", "nncf", "numpy", "optuna", "pymoo", "scikit-learn", "torch-pruning")


def write_result(
    build: Build,
    budget_ms: float,
    profile: Profile,
    searched: Searched,
    winner: Winner,
    shipment: Shipment,
    preflight_warnings: list[str],
    elsewhere: Sequence[tuple[Other, Shipment]] = (),
) -> dict[str, Any]:
    """The whole of result.json, also returned. `elsewhere` are the other devices, and what is shipped to each."""
    entries = [{**v.record, "path": f"stages/{shipment.folder.name}/{v.file}"} for v in shipment.variants]
    chosen = {**shipment.chosen.record, "path": "model/model.onnx"}
    devices = {build.request.device: _device(build, budget_ms, shipment, "model/model.onnx")}
    for other, shipped in elsewhere:
        device = other.build.request.device
        path = f"{other.build.request.out.relative_to(build.request.out).as_posix()}/model/model.onnx"
        devices[device] = _device(other.build, other.budget_ms, shipped, path)
    warnings = [*preflight_warnings, *build.dataset.warnings]
    for variant in shipment.variants:
        warnings += [f"{variant.name}: {text}" for text in (variant.record["measured"] or {}).get("warnings", ())]
    for other, shipped in elsewhere:
        about = f"{shipped.chosen.name} on {other.build.request.device}"
        warnings += [f"{about}: {text}" for text in (shipped.chosen.record["measured"] or {}).get("warnings", ())]
    dataset = build.dataset
    found = searched.last
    is_trained = searched.is_trained
    candidates = dict.fromkeys((*found.comparable, *searched.finalists))
    result = {
        **build.heading(),
        "budgets": [
            {"device": device, "latency_ms": each["budget_ms"]} | budgets.asked(build)
            for device, each in devices.items()
        ],
        "verdict": of_all(each["verdict"] for each in devices.values()),
        "decision": shipment.decision,
        "winner": chosen,
        "devices": devices,
        "variants": entries,
        "baselines": [],
        "predictor": profile.accuracy.get(shipment.chosen.precision, {}),
        "predictor_by_precision": profile.accuracy,
        "held_out": list(profile.held_out),
        "front": {
            "metric": f"validation {_objective(build, is_trained)}, {'trained briefly' if is_trained else 'from the supernet'}",
            "weights": "trained" if is_trained else "supernet",
            "provenance": chosen["predicted"]["provenance"],
            "precision": shipment.chosen.precision,
            "budget_ms": budget_ms,
            "evaluated": [{"id": c.subnet.id, "latency_ms": c.latency_ms, "top1": c.score} for c in candidates],
            "front": [c.subnet.id for c in found.front],
            "chosen": winner.subnet.id,
            "stopped": found.stopped,
            "dropped_options": found.dropped_options,
        },
        "steps": [_step(entry) for entry, v in zip(entries, shipment.variants, strict=True) if _is_on_the_way(v)],
        "finalists": list(winner.finalists),
        "finalists_error": _finalists_error(build, winner),
        "pruning": {k: v for k, v in winner.pruning.items() if k != "widths"},
        "rounds": list(searched.rounds),
        "architecture": list(build.space.describe(winner.subnet)),
        "model": described(build.given, build.request.model) if build.given else None,
        "data": {
            "name": dataset.name,
            "resolution_px": dataset.resolution_px,
            "channels": dataset.channels,
            "classes": len(dataset.labels),
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
            "unbalanced": dataset.unbalanced,
        },
        "environment": _environment(build),
        "stages": [{"name": s.name, "seconds": s.seconds, "cached": s.cached} for s in build.progress.stages],
        "warnings": warnings,
    }
    write_json(build.request.out / "result.json", result)
    return result


def _finalists_error(build: Build, winner: Winner) -> float | None:
    """Standard error of the best finalist's validation accuracy: what is closer to it than that may be as good."""
    if not winner.finalists:
        return None
    dataset, best = build.dataset, winner.finalists[0]["scores"][-1]
    classes = len(dataset.labels) if dataset.unbalanced else None
    return data.accuracy_error(best, dataset.validation.labels, classes)


def _device(build: Build, budget_ms: float, shipment: Shipment, path: str) -> dict[str, Any]:
    """An entry of `devices`: the file that is shipped to it, and what is known of that there."""
    machine, shipped = build.machine, shipment.chosen.record
    return {
        **shipped,
        "path": path,
        "target": machine.reached.target.name if machine.reached else None,
        "runtime_version": machine.version or None,
        "threads": machine.threads,
        "budget_ms": budget_ms,
        "decision": shipment.decision,
        "verdict": verdict(shipped, {"latency_ms": budget_ms} | budgets.asked(build)),
    }


def write_lock(
    build: Build,
    budget_ms: float,
    profile: Profile,
    feasibility: Feasibility,
    shipment: Shipment,
    elsewhere: Sequence[tuple[Other, Shipment]] = (),
) -> None:
    """What has to be the same for the same build."""
    devices = [(build.machine.key, budget_ms, profile, shipment)]
    devices += [(o.build.machine.key, o.budget_ms, o.profile, shipped) for o, shipped in elsewhere]
    write_json(
        build.request.out / "edgenas.lock.json",
        {
            "schema": SCHEMA,
            "edgenas": __version__,
            "seed": build.request.seed,
            "strategy": build.request.strategy,
            "warm_start": build.request.warm_start,
            "task_threads": build.request.task_threads,
            "effort": build.request.effort,
            "device": build.request.device,
            "machine": build.machine.key,
            "clock_mhz": build.machine.probe.get("clock_mhz"),
            "power_mode": build.machine.probe.get("power_mode"),
            "governor": build.machine.probe.get("governor"),
            "budget_ms": budget_ms,
            "default_budget_ms": feasibility.default_budget_ms,
            "quiet_reference_ms": profile.quiet_reference_ms,
            "data": build.dataset.fingerprint,
            "space": build.space.id,
            "model": build.given.key if build.given else None,
            "tables": {path.name: file_hash(path) for path in profile.table_paths},
            "packages": _versions(),
            "files": {v.file: file_hash(shipment.folder / v.file) for v in shipment.variants},
            "devices": {
                key["device"]: {
                    "machine": key,
                    "budget_ms": ms,
                    "tables": {path.name: file_hash(path) for path in known.table_paths},
                    "shipped": file_hash(shipped.folder / shipped.chosen.file),
                }
                for key, ms, known, shipped in devices
            },
        },
    )


def _objective(build: Build, is_trained: bool) -> str:
    if build.request.objective == "loss" and not is_trained:
        return "likelihood (exp of minus the loss" + (", classes balanced)" if build.dataset.unbalanced else ")")
    return "balanced accuracy" if build.dataset.unbalanced else "top-1"


def _is_on_the_way(variant: Variant) -> bool:
    """To what is shipped; the other files are written beside it."""
    return variant.eligible or variant.precision == "fp32"


def _step(entry: dict[str, Any]) -> dict[str, Any]:
    measured, predicted = entry["measured"], entry["predicted"] or {}
    return {
        "name": entry["name"],
        "title": TITLES[entry["name"]],
        "top1": entry["accuracy"]["top1"],
        "balanced": entry["accuracy"]["balanced"],
        "split": "test",
        "latency_ms": measured["p50_ms"] if measured else predicted.get("latency_ms"),
        "provenance": measured["provenance"] if measured else predicted.get("provenance"),
        "precision": entry["precision"],
        "size_bytes": entry["size_bytes"],
        "macs": entry["macs"],
        "params": entry["params"],
    }


def _environment(build: Build) -> dict[str, Any]:
    return {
        "cpu": build.machine.probe.get("cpu_name"),
        "os": build.machine.probe.get("system"),
        "python": platform.python_version(),
        "packages": _versions(),
        "int8_weight_bits": build.machine.weight_bits,
    }


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}
