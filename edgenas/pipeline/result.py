"""`result.json` and `edgenas.lock.json` from what the stages found."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from edgenas import __version__
from edgenas.pipeline.context import Build
from edgenas.pipeline.measuring import Feasibility, Profile
from edgenas.pipeline.shipping import Shipment
from edgenas.pipeline.specialising import Winner
from edgenas.search.evolution import SearchResult
from edgenas.store import file_hash, write_json

SCHEMA = 1
TITLES = {
    "supernet": "Straight from the supernet",
    "finetuned": "Fine-tuned with distillation",
    "pruned": "Pruned on the latency staircase",
    "int8": "Quantized to INT8",
}
PACKAGES = ("torch", "onnx", "onnxruntime", "nncf", "numpy", "pymoo", "scikit-learn")


def write_result(
    build: Build,
    budget_ms: float,
    profile: Profile,
    found: SearchResult,
    winner: Winner,
    shipment: Shipment,
    rounds: list[dict[str, Any]],
) -> dict[str, Any]:
    """The whole of result.json, also returned."""
    runtime = build.machine.bench.runtime.NAME
    entries = [{**v.record, "path": f"stages/{shipment.folder.name}/{v.file}"} for v in shipment.variants]
    chosen = {**shipment.chosen.record, "path": "model/model.onnx"}
    measured = chosen["measured"]
    verdict = "met" if measured["p50_ms"] <= budget_ms else "not_met"
    warnings = list(build.dataset.warnings)
    for variant in shipment.variants:
        warnings += [f"{variant.name}: {text}" for text in variant.record["measured"]["warnings"]]
    dataset = build.dataset
    result = {
        "schema": SCHEMA,
        "device": build.request.device,
        "target": build.machine.bench.target.name,
        "runtime": runtime,
        "runtime_version": build.machine.spec.runtime(runtime).version,
        "threads": build.machine.bench.threads,
        "seed": build.request.seed,
        "budgets": [{"device": build.request.device, "latency_ms": budget_ms}],
        "verdict": verdict,
        "decision": shipment.decision,
        "winner": chosen,
        "variants": entries,
        "baselines": [],
        "predictor": profile.accuracy[shipment.chosen.precision],
        "predictor_by_precision": profile.accuracy,
        "held_out": list(profile.held_out),
        "front": {
            "metric": "validation " + ("balanced accuracy" if dataset.unbalanced else "top-1") + ", from the supernet",
            "provenance": chosen["predicted"]["provenance"],
            "precision": shipment.chosen.precision,
            "budget_ms": budget_ms,
            "evaluated": [{"id": c.subnet.id, "latency_ms": c.latency_ms, "top1": c.score} for c in found.evaluated],
            "front": [c.subnet.id for c in found.front],
            "chosen": winner.subnet.id,
            "stopped": found.stopped,
            "dropped_options": found.dropped_options,
        },
        "steps": [_step(entry) for entry in entries],
        "pruning": {k: v for k, v in winner.pruning.items() if k != "widths"},
        "rounds": rounds,
        "architecture": list(build.space.describe(winner.subnet)),
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


def write_lock(build: Build, budget_ms: float, profile: Profile, feasibility: Feasibility, shipment: Shipment) -> None:
    """What has to be the same for the same build."""
    write_json(
        build.request.out / "edgenas.lock.json",
        {
            "schema": SCHEMA,
            "edgenas": __version__,
            "seed": build.request.seed,
            "effort": build.request.effort,
            "device": build.request.device,
            "machine": build.machine.key | {"isa": sorted(build.machine.probe["isa"])},
            "clock_mhz": build.machine.probe["clock_mhz"],
            "governor": build.machine.probe["governor"],
            "budget_ms": budget_ms,
            "largest_int8_p50_ms": feasibility.largest_int8_ms,
            "quiet_reference_ms": profile.quiet_reference_ms,
            "data": build.dataset.fingerprint,
            "space": build.space.id,
            "tables": {path.name: file_hash(path) for path in profile.table_paths},
            "packages": _versions(),
            "files": {v.file: file_hash(shipment.folder / v.file) for v in shipment.variants},
        },
    )


def _step(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": entry["name"],
        "title": TITLES[entry["name"]],
        "top1": entry["accuracy"]["top1"],
        "balanced": entry["accuracy"]["balanced"],
        "split": "test",
        "latency_ms": entry["measured"]["p50_ms"],
        "provenance": entry["measured"]["provenance"],
        "precision": entry["precision"],
        "size_bytes": entry["size_bytes"],
        "macs": entry["macs"],
        "params": entry["params"],
    }


def _environment(build: Build) -> dict[str, Any]:
    return {
        "cpu": build.machine.probe["cpu_name"],
        "os": build.machine.probe["system"],
        "python": platform.python_version(),
        "packages": _versions(),
        "int8_weight_bits": build.machine.weight_bits,
    }


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}
