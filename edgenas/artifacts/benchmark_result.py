"""BenchmarkResult: one model measured on one device, as `edgenas bench` and a build's own `on_device.py` print it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgenas.artifacts.measurement import Measurement
from edgenas.errors import InputError

SCHEMA = 1
KIND = "edgenas benchmark"
_NEEDED = ("model", "sha256", "device", "target", "runtime", "runtime_version", "precision", "threads", "measured")


def figures(found: Measurement) -> dict[str, Any]:
    """result.json's `measured` without what is measured apart: memory and energy."""
    return {
        "p50_ms": found.p50_ms,
        "p90_ms": found.percentile_ms(90),
        "p99_ms": found.percentile_ms(99),
        "cpu_ms": found.cpu_p50_ms,
        "n": len(found.samples_ns),
        "provenance": found.provenance,
        "temperature_c": list(found.temperature_c),
        "clock_mhz": list(found.clock_mhz),
        "warnings": list(found.warnings),
    }


@dataclass(frozen=True)
class BenchmarkResult:
    """`sha256` is the ONNX file's; `measured` has the fields of result.json's `measured`. What is unknown is None."""

    model: str
    sha256: str
    device: str
    target: str
    runtime: str
    runtime_version: str
    precision: str
    threads: int
    measured: Mapping[str, Any]
    predicted: Mapping[str, Any] | None = None
    accuracy: Mapping[str, Any] | None = None
    golden_max_abs_error: float | None = None
    environment: Mapping[str, Any] | None = None
    strict: bool = False
    kind: str = KIND
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any, where: str) -> BenchmarkResult:
        """Raises InputError, naming `where`, for anything else than a benchmark result."""
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise InputError(
                f"{where} is not a benchmark result", "Give what `edgenas bench --json` or on_device.py printed."
            )
        if data.get("schema") != SCHEMA:
            raise InputError(f"{where}: schema {SCHEMA} was expected, but it has {data.get('schema')!r}")
        if missing := [key for key in _NEEDED if key not in data]:
            raise InputError(f"{where}: {', '.join(missing)} is missing")
        known = {key: value for key, value in data.items() if key in BenchmarkResult.__dataclass_fields__}
        measured = known["measured"]
        if not isinstance(measured, dict) or not all(
            isinstance(measured.get(key), int | float) and measured[key] > 0
            for key in ("p50_ms", "p90_ms", "p99_ms", "n")
        ):
            raise InputError(f"{where}: `measured` must hold p50_ms, p90_ms, p99_ms and n above zero")
        return BenchmarkResult(**known)
