"""The stages that measure before anything is trained: feasibility, the kernel tables, predictors, and candidates of the search."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgenas import device as devices
from edgenas.artifacts.kernel import Precision
from edgenas.artifacts.measurement import Measurement
from edgenas.errors import InfeasibleBudget, TargetError
from edgenas.latency import predictor as predictors
from edgenas.latency import profile, records, table
from edgenas.latency.calibration import CalibratedPredictor
from edgenas.latency.cross_validation import with_left_out
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.profile import ProfilePlan
from edgenas.latency.profile_generic import GenericPlan
from edgenas.latency.records import ProfiledNetwork
from edgenas.measure import SamplingRule, most_tries, reference_network, untrained
from edgenas.network.graph import Network
from edgenas.pipeline.context import Build, Machine
from edgenas.progress import Progress
from edgenas.spaces.space import SearchSpace
from edgenas.stats import accuracy_figures
from edgenas.store import Stage, write_bytes

CHECK = SamplingRule(warmup_s=0.1, min_count=100, max_count=600, max_s=0.5, chunk=10)
RECORDS = "records.jsonl"
SLOW_OPENING_S = 300.0  # a runtime that may take longer to open a file builds engines
ROOM = 1.3  # times what the smallest network takes: a budget below it leaves a search little to choose from
FEW = ProfilePlan(covering=12, odd=0, held_out=4)


@dataclass(frozen=True)
class Feasibility:
    """p50 of the fastest of the smallest subnets, with random weights, and the budget where none was asked for (`default_budget`).
    `how`: "measured", or "predicted" for a device that can't be reached."""

    smallest_ms: float
    smallest_precision: str
    default_budget_ms: float
    quiet_reference_ms: float
    how: str


@dataclass(frozen=True)
class Profile:
    """What is known of the latencies of a space on a machine, the files that it comes from, and how well it predicts."""

    key: str
    predictors: Mapping[Precision, LatencyPredictor | CalibratedPredictor]
    quiet_reference_ms: float
    held_out: tuple[dict[str, Any], ...]
    accuracy: dict[Precision, dict[str, float]]
    table_paths: tuple[Path, ...]
    failed: tuple[str, ...]


def measure_fast_precisions(machine: Machine, networks: Sequence[Network]) -> list[dict[Precision, float]]:
    """p50 (ms) of each untrained network in each precision that is fast on the device, all measured in one interleaved run.

    At the machine's quiet speed: one that is slow for a minute (1.4 times was seen) would otherwise correct predictors by that, and a
    smaller network than needed would be built.
    """
    pairs = [(network, precision) for network in networks for precision in machine.precisions]
    found = measure_untrained(machine, pairs)
    ms = iter(m.quiet_p50_ms(machine.bench.quiet_reference_ms or m.reference_ms) for m in found)
    return [{precision: next(ms) for precision in machine.precisions} for _ in networks]


def measure_untrained(machine: Machine, networks: list[tuple[Network, Precision]]) -> list[Measurement]:
    """In one interleaved run. Latency doesn't depend on the weights: random ones do, before anything is trained."""
    models = [untrained(machine.runtime, network, p, machine.weight_bits) for network, p in networks]
    return machine.bench.time_models(models, CHECK, precisions=[p for _, p in networks], tries=most_tries())


def check_feasibility(build: Build) -> Feasibility:
    """Measures the extremes of the space. Raises InfeasibleBudget when even the fastest of the smallest is over the budget."""
    machine, space = build.machine, build.space
    stage = build.store.stage("feasibility", {"space": space.id, "machine": machine.key})
    with build.progress.stage("feasibility", "Measuring the smallest and the largest network", cached=stage.is_done):
        if not stage.is_done:
            smallest = [space.network(subnet) for subnet in space.smallest()]
            found = {
                p: min(m.p50_ms for m in measure_untrained(machine, [(network, p) for network in smallest]))
                for p in machine.precisions
            }
            best = min(found, key=lambda p: found[p])
            largest = measure_fast_precisions(machine, [space.network(space.largest())])[0]
            stage.finish(
                asdict(
                    Feasibility(
                        found[best],
                        best,
                        default_budget(found[best], min(largest.values())),
                        machine.bench.quiet_reference_ms or 0.0,
                        "measured",
                    )
                )
            )
    feasibility = Feasibility(**stage.outcome())
    machine.bench.quiet_reference_ms = feasibility.quiet_reference_ms
    return refuse_what_is_infeasible(build, feasibility)


def default_budget(smallest_ms: float, largest_ms: float) -> float:
    """Half of what the largest takes in its best precision; in a space whose smallest is near that, halfway between the two."""
    half = largest_ms / 2
    return half if half > ROOM * smallest_ms else max(smallest_ms, (smallest_ms + largest_ms) / 2)


def refuse_what_is_infeasible(build: Build, feasibility: Feasibility) -> Feasibility:
    budget = build.request.latency_ms
    if budget is not None and budget < feasibility.smallest_ms:
        raise InfeasibleBudget(
            f"no network of the space meets {build.request.latency_flag}{budget:g}: the fastest one {feasibility.how} takes "
            f"{feasibility.smallest_ms:.3g} ms ({feasibility.smallest_precision}) on {build.request.device}",
            f"Ask for at least {build.request.latency_flag}{feasibility.smallest_ms * 1.1:.2g}, or use a faster device.",
        )
    return feasibility


def profile_space(build: Build) -> Profile:
    """Takes what `edgenas profile` measured on this machine, if it did for this space and effort."""
    plan = plan_for(build.machine, build.effort.plan)
    stage = build.store.stage("profile", profile_inputs(build.space, build.machine, plan))
    measured = work_folder(build.request.device) / "stages" / stage.folder.name / RECORDS
    if measured.exists() and not stage.path(RECORDS).exists():
        write_bytes(stage.path(RECORDS), measured.read_bytes())
    return run_profile(build.space, build.machine, plan, stage, build.progress)


def plan_for(machine: Machine, plan: ProfilePlan) -> ProfilePlan:
    """Where every network costs the minutes of an engine, few of them, which together cover the kernels."""
    return FEW if machine.runtime.OPENING_LIMIT_S > SLOW_OPENING_S else plan


def generic_plan_for(machine: Machine, plan: GenericPlan) -> GenericPlan:
    slow = machine.runtime.OPENING_LIMIT_S > SLOW_OPENING_S
    return replace(plan, count=FEW.covering) if slow and plan.max_s is None else plan


def _say_how_long_engines_take(machine: Machine, plan: ProfilePlan, progress: Progress) -> None:
    """From the first one, of the small reference network."""
    start = time.monotonic()
    machine.bench.time_models([untrained(machine.runtime, reference_network(), "fp32", 8)], CHECK)
    seconds = time.monotonic() - start
    engines = (plan.covering + plan.held_out) * len(machine.precisions)
    progress.say(
        f"  {machine.runtime.NAME} builds an engine for each network. A small one took {seconds:.0f} s here; the profile needs "
        f"{engines}: about {max(1, engines * seconds / 60):.0f} minutes or more. Engines are kept on the device."
    )


def work_folder(device_id: str) -> Path:
    """Where `edgenas profile` keeps its raw records."""
    return devices.user_folder("latency_tables") / device_id / "work"


def profile_inputs(space: SearchSpace, machine: Machine, plan: ProfilePlan) -> dict[str, Any]:
    return {"space": space.id, "machine": machine.key, "plan": asdict(plan)}


def run_profile(space: SearchSpace, machine: Machine, plan: ProfilePlan, stage: Stage, progress: Progress) -> Profile:
    """Measures what isn't measured yet, writes the tables into the stage's folder and judges the predictors on held-out networks."""
    path = stage.path(RECORDS)
    with progress.stage("profile", "Profiling kernels on the device", cached=stage.is_done):
        if not stage.is_done:
            if machine.runtime.OPENING_LIMIT_S > SLOW_OPENING_S:
                _say_how_long_engines_take(machine, plan, progress)
            measured = profile.profile(
                space, machine.bench, machine.precisions, plan, machine.weight_bits, path, progress.update
            )
            _refuse_without(machine.precisions, measured, path)
            quiet = quiet_reference_ms(measured)
            fitted, paths = _fitted(space, machine, measured, quiet, stage.folder)
            rows = [
                _held_out_row(fitted[r.precision], r, quiet)
                for r in measured
                if r.name.startswith(profile.HELD_OUT) and not r.error
            ]
            accuracy = {p: _figures([r for r in rows if r["precision"] == p]) for p in machine.precisions}
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
    space: SearchSpace, machine: Machine, measured: list[ProfiledNetwork], quiet_ms: float, folder: Path
) -> tuple[dict[Precision, LatencyPredictor], tuple[Path, ...]]:
    """A predictor a precision, and the paths of the tables that they were fitted from."""
    fitted: dict[Precision, LatencyPredictor] = {}
    paths = []
    for precision in machine.precisions:
        training = [
            r for r in measured if r.precision == precision and not r.error and not r.name.startswith(profile.HELD_OUT)
        ]
        made = table.from_records(table_meta(space.id, machine, precision, quiet_ms, _failed(measured)), training)
        path = folder / made.file_name
        if not (path.is_file() and table.load(path).meta.quiet_reference_ms == quiet_ms):
            table.save(with_left_out(made, training), folder)
        # from the file, whether it was written now or before: its figures are rounded
        fitted[precision] = predictors.fit(table.load(path), machine.bench.fusion(precision))
        paths.append(path)
    return fitted, tuple(paths)


def _refuse_without(precisions: Sequence[Precision], measured: list[ProfiledNetwork], path: Path) -> None:
    """Raises TargetError where a precision has no network to fit a predictor to. What is recorded in `path` as failed isn't tried
    again, but here the device may be mended."""
    for precision in precisions:
        own = [r for r in measured if r.precision == precision and not r.name.startswith(profile.HELD_OUT)]
        if all(r.error for r in own):
            reason = next((r.error for r in own), "there was no time")
            path.unlink(missing_ok=True)
            raise TargetError(f"no network could be profiled in {precision}: {reason}")


def _failed(measured: list[ProfiledNetwork]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.name for r in measured if r.error))


def quiet_reference_ms(measured: list[ProfiledNetwork]) -> float:
    return float(np.quantile([r.whole.reference_ms for r in measured if r.whole], 0.1))


def table_meta(
    space_id: str, machine: Machine, precision: Precision, quiet_ms: float, failed: tuple[str, ...]
) -> table.TableMeta:
    runtime = machine.runtime.NAME
    return table.TableMeta(
        device=machine.spec.id,
        runtime=runtime,
        runtime_version=machine.version,
        precision=precision,
        threads=machine.threads,
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
