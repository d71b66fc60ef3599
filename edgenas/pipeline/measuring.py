"""The stages that measure before anything is trained: feasibility, the kernel tables, predictors, and candidates of the search."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgenas import device as devices
from edgenas.artifacts.kernel import Precision
from edgenas.artifacts.measurement import Measurement
from edgenas.errors import InfeasibleBudget, TargetError
from edgenas.latency import predictor as predictors
from edgenas.latency import profile, records, table
from edgenas.latency.cross_validation import with_left_out
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.profile import ProfilePlan
from edgenas.latency.records import ProfiledNetwork
from edgenas.measure import SamplingRule
from edgenas.network.graph import Network
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.pipeline.context import Build, Machine
from edgenas.progress import Progress
from edgenas.spaces.mobile import MobileSpace
from edgenas.stats import accuracy_figures
from edgenas.store import Stage, write_bytes

CHECK = SamplingRule(warmup_s=0.1, min_count=100, max_count=600, max_s=0.5, chunk=10)
TRIES = 5
RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Feasibility:
    """Measured p50 of the smallest subnets (each fast precision) and of the largest (INT8), with random weights."""

    smallest_ms: float
    smallest_precision: str
    largest_int8_ms: float
    quiet_reference_ms: float


@dataclass(frozen=True)
class Profile:
    """The kernel tables of a space on a machine, the records they come from, and how well they predict."""

    key: str
    predictors: dict[Precision, LatencyPredictor]
    quiet_reference_ms: float
    held_out: tuple[dict[str, Any], ...]
    accuracy: dict[Precision, dict[str, float]]
    table_paths: tuple[Path, ...]
    failed: tuple[str, ...]


def measure_fast_precisions(machine: Machine, network: Network) -> dict[Precision, float]:
    """Measured p50 (ms) of an untrained network in each precision that is fast on the device."""
    return {p: measure_untrained(machine, [network], p)[0].p50_ms for p in fast_precisions(machine)}


def fast_precisions(machine: Machine) -> list[Precision]:
    return [
        p for p in machine.bench.runtime.PRECISIONS if p in machine.spec.fast_precisions(machine.bench.runtime.NAME)
    ]


def measure_untrained(machine: Machine, networks: list[Network], precision: Precision) -> list[Measurement]:
    """Latency doesn't depend on the weights: random ones do, before anything is trained."""
    models = []
    for network in networks:
        weights = random_weights(network)
        if precision == "int8":
            ranges = random_ranges(network)
            models.append(machine.bench.runtime.int8_model(network, weights, ranges, machine.weight_bits))
        else:
            models.append(machine.bench.runtime.fp32_model(network, weights))
    return machine.bench.time_models(models, CHECK, tries=TRIES)


def check_feasibility(build: Build) -> Feasibility:
    """Measures the extremes of the space. Raises InfeasibleBudget when even the fastest of the smallest is over the budget."""
    machine, space = build.machine, build.space
    stage = build.store.stage("feasibility", {"space": space.id, "machine": machine.key})
    with build.progress.stage("feasibility", "Measuring the smallest and the largest network", cached=stage.is_done):
        if not stage.is_done:
            smallest = [space.network(subnet) for subnet in space.smallest()]
            found = {
                p: min(m.p50_ms for m in measure_untrained(machine, smallest, p)) for p in fast_precisions(machine)
            }
            best = min(found, key=lambda p: found[p])
            largest = measure_untrained(machine, [space.network(space.largest())], "int8")[0]
            stage.finish(
                asdict(Feasibility(found[best], best, largest.p50_ms, machine.bench.quiet_reference_ms or 0.0))
            )
    feasibility = Feasibility(**stage.outcome())
    machine.bench.quiet_reference_ms = feasibility.quiet_reference_ms
    budget = build.request.latency_ms
    if budget is not None and budget < feasibility.smallest_ms:
        raise InfeasibleBudget(
            f"no network of the space meets --latency-ms {budget:g}: the fastest one measured takes "
            f"{feasibility.smallest_ms:.3g} ms ({feasibility.smallest_precision}) on {build.request.device}",
            f"Ask for at least --latency-ms {feasibility.smallest_ms * 1.1:.2g}, or use a faster device.",
        )
    return feasibility


def profile_space(build: Build) -> Profile:
    """Takes what `edgenas profile` measured on this machine, if it did for this space and effort."""
    stage = build.store.stage("profile", profile_inputs(build.space, build.machine, build.effort.plan))
    measured = work_folder(build.request.device) / "stages" / stage.folder.name / RECORDS
    if measured.exists() and not stage.path(RECORDS).exists():
        write_bytes(stage.path(RECORDS), measured.read_bytes())
    return run_profile(build.space, build.machine, build.effort.plan, stage, build.progress)


def work_folder(device_id: str) -> Path:
    """Where `edgenas profile` keeps its raw records."""
    return devices.user_folder("latency_tables") / device_id / "work"


def profile_inputs(space: MobileSpace, machine: Machine, plan: ProfilePlan) -> dict[str, Any]:
    return {"space": space.id, "machine": machine.key, "plan": asdict(plan)}


def run_profile(space: MobileSpace, machine: Machine, plan: ProfilePlan, stage: Stage, progress: Progress) -> Profile:
    """Measures what isn't measured yet, writes the tables into the stage's folder and judges the predictors on held-out networks."""
    path = stage.path(RECORDS)
    with progress.stage("profile", "Profiling kernels on the device", cached=stage.is_done):
        if not stage.is_done:
            measured = profile.profile(space, machine.bench, plan, machine.weight_bits, path, progress.update)
            quiet = quiet_reference_ms(measured)
            fitted, paths = _fitted(space, machine, measured, quiet, stage.folder)
            rows = [
                _held_out_row(fitted[r.precision], r, quiet)
                for r in measured
                if r.name.startswith(profile.HELD_OUT) and not r.error
            ]
            accuracy = {p: _figures([r for r in rows if r["precision"] == p]) for p in machine.bench.runtime.PRECISIONS}
            stage.finish({"quiet_reference_ms": quiet, "held_out": rows, "accuracy": accuracy})
        else:
            measured = records.read(path)
            fitted, paths = _fitted(space, machine, measured, stage.outcome()["quiet_reference_ms"], stage.folder)
    outcome = stage.outcome()
    return Profile(
        stage.key,
        fitted,
        outcome["quiet_reference_ms"],
        tuple(outcome["held_out"]),
        outcome["accuracy"],
        paths,
        _failed(measured),
    )


def _fitted(
    space: MobileSpace, machine: Machine, measured: list[ProfiledNetwork], quiet_ms: float, folder: Path
) -> tuple[dict[Precision, LatencyPredictor], tuple[Path, ...]]:
    """A predictor a precision, and the paths of the tables that they were fitted from."""
    fitted: dict[Precision, LatencyPredictor] = {}
    paths = []
    for precision in machine.bench.runtime.PRECISIONS:
        training = [
            r for r in measured if r.precision == precision and not r.error and not r.name.startswith(profile.HELD_OUT)
        ]
        if not training:
            raise TargetError(f"no network could be profiled in {precision}: {measured[0].error}")
        made = table.from_records(table_meta(space.id, machine, precision, quiet_ms, _failed(measured)), training)
        path = folder / made.file_name
        if not (path.is_file() and table.load(path).meta.quiet_reference_ms == quiet_ms):
            table.save(with_left_out(made, training), folder)
        # from the file, whether it was written now or before: its figures are rounded
        fitted[precision] = predictors.fit(table.load(path), machine.bench.fusion(precision))
        paths.append(path)
    return fitted, tuple(paths)


def _failed(measured: list[ProfiledNetwork]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.name for r in measured if r.error))


def quiet_reference_ms(measured: list[ProfiledNetwork]) -> float:
    return float(np.quantile([r.whole.reference_ms for r in measured if r.whole], 0.1))


def table_meta(
    space_id: str, machine: Machine, precision: Precision, quiet_ms: float, failed: tuple[str, ...]
) -> table.TableMeta:
    runtime = machine.bench.runtime.NAME
    return table.TableMeta(
        device=machine.spec.id,
        runtime=runtime,
        runtime_version=machine.spec.runtime(runtime).version,
        precision=precision,
        threads=machine.bench.threads,
        space_id=space_id,
        quiet_reference_ms=quiet_ms,
        machine={k: v for k, v in machine.probe.items() if k != "ok"},
        failed=failed,
    )


def _held_out_row(predictor: LatencyPredictor, record: ProfiledNetwork, quiet_ms: float) -> dict[str, Any]:
    assert record.whole is not None
    estimate = predictor.estimate_kernels(record.kernels)
    return {
        "id": record.name.removeprefix(profile.HELD_OUT),
        "precision": record.precision,
        "predicted_ms": estimate.latency_ms,
        "low_ms": estimate.low_ms,
        "high_ms": estimate.high_ms,
        "measured_ms": record.whole.steady_ms(quiet_ms),
    }


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    if len(rows) < 2:
        return {}
    figures = accuracy_figures([r["predicted_ms"] for r in rows], [r["measured_ms"] for r in rows])
    covered = [r["low_ms"] <= r["measured_ms"] <= r["high_ms"] for r in rows]
    return figures | {"coverage_80": sum(covered) / len(covered)}
