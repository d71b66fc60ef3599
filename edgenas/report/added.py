"""`edgenas report --add`: takes a measurement that was made on the device into the result of a build, and judges the budget by it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edgenas.artifacts.benchmark_result import BenchmarkResult
from edgenas.artifacts.verdict import of_all, verdict
from edgenas.errors import InputError
from edgenas.store import file_hash, read_json, write_json


def add(build_dir: Path, file: Path) -> list[str]:
    """Changes result.json and returns the names of the variants that have the measurement now. `file` is what `edgenas bench --json` or
    on_device.py printed, "-" standard input. Raises InputError for anything else, and for a model that is not of this build."""
    result_path = build_dir / "result.json"
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        result = read_json(result_path)
    except OSError as error:
        raise InputError(f"{error.filename} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{result_path if file.exists() else file} can't be read: {error}") from error
    try:
        found = BenchmarkResult.from_json(json.loads(text), str(file))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}", "Give what on_device.py printed, and nothing else.") from error
    devices = result.get("devices", {result["device"]: {}})
    if found.device not in devices:
        built_for = " and ".join(map(repr, devices))
        raise InputError(f"{file} was measured on device {found.device!r}, but the build is for {built_for}")
    is_first = found.device == result["device"]
    entries = [result["winner"], *result["variants"]] if is_first else []
    entries += [devices[found.device]] if devices[found.device] else []
    matching = [entry for entry in entries if _same(build_dir, entry, found)]
    if not matching:
        raise InputError(
            f"{file} is of a model that this build didn't make ({found.sha256[:12]}, {found.precision} in {found.runtime})",
            f"Measure a file of {build_dir / 'model'} as it is.",
        )
    for entry in matching:
        entry["measured"] = dict(found.measured)
        if found.accuracy:
            entry["accuracy"] = dict(found.accuracy)
    for step in result["steps"] if is_first else ():
        if step["name"] in {entry["name"] for entry in matching}:
            step |= {"latency_ms": found.measured["p50_ms"], "provenance": found.measured["provenance"]}
    where = {"target": found.target, "runtime_version": found.runtime_version}
    if is_first:
        result |= where | {"verdict": verdict(result["winner"], result["budgets"][0])}
    if devices[found.device]:
        limits = next(row for row in result["budgets"] if row["device"] == found.device)
        devices[found.device] |= where | {"verdict": verdict(devices[found.device], limits)}
        result["verdict"] = of_all(row["verdict"] for row in devices.values())
    write_json(result_path, result)
    return list(dict.fromkeys(entry["name"] for entry in matching))


def _same(build_dir: Path, entry: dict[str, Any], found: BenchmarkResult) -> bool:
    path = build_dir / entry["path"]
    how = (entry["precision"], entry["runtime"]) == (found.precision, found.runtime)
    return how and path.is_file() and file_hash(path) == found.sha256
