"""`edgenas profile`: measures a device's search space for builds, and generic networks for `predict`; tables into the user's folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from edgenas import device as devices
from edgenas.latency import predictor as predictors
from edgenas.latency import profile, records, table
from edgenas.latency.cross_validation import with_left_out
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.profile_generic import GenericPlan, profile_generic
from edgenas.latency.records import ProfiledNetwork
from edgenas.latency.table import ANY_SPACE, LatencyTable
from edgenas.pipeline.context import Machine, load_dataset, opened_machine, space_for
from edgenas.pipeline.measuring import (
    RECORDS,
    profile_inputs,
    quiet_reference_ms,
    run_profile,
    table_meta,
    work_folder,
)
from edgenas.pipeline.request import EFFORTS
from edgenas.progress import Progress
from edgenas.stats import accuracy_figures
from edgenas.store import Store


def profile_device(
    device: str,
    progress: Progress,
    *,
    target: str | None,
    data: str | None,
    effort: str,
    threads: int | None,
    seed: int,
    minutes: float | None,
) -> dict[str, Any]:
    """Raw records stay in a work folder beside the tables, so that a killed run goes on where it stopped. `minutes` bounds the
    generic networks, which come last."""
    chosen, start = EFFORTS[effort], time.monotonic()
    dataset = load_dataset(data, chosen, seed, progress)
    with opened_machine(device, target, threads) as machine:
        store = Store(work_folder(device))
        try:
            space = space_for(dataset)
            stage = store.stage("profile", profile_inputs(space, machine, chosen.plan))
            found = run_profile(space, machine, chosen.plan, stage, progress)
            left_s = None if minutes is None else max(0.0, 60 * minutes - (time.monotonic() - start))
            plan = GenericPlan(max_s=left_s, seed=seed)
            path = store.stage("generic", {"machine": machine.key, "seed": seed}).path(RECORDS)
            with progress.stage("generic", "Profiling networks of all common kinds", cached=False):
                generic = profile_generic(machine.bench, plan, machine.weight_bits, path, progress.update)
            of_space = [r for r in records.read(stage.path(RECORDS)) if not r.name.startswith(profile.HELD_OUT)]
            with progress.stage("tables", "Fitting the tables", cached=False):
                made = tables(machine, [*of_space, *generic])
        finally:
            store.close()
        folder = devices.user_folder("latency_tables") / device
        rows = [
            _row(table.save(each, folder), each, predictors.fit(each, machine.bench.fusion(each.meta.precision)))
            for each in made
        ]
    return {"device": device, "tables": rows, "space": found.accuracy, "failed": list(found.failed)}


def tables(machine: Machine, measured: list[ProfiledNetwork]) -> list[LatencyTable]:
    """One a precision, for arbitrary models, of all that was measured."""
    quiet_ms = quiet_reference_ms(measured)
    found = []
    for precision in machine.bench.runtime.PRECISIONS:
        own = [r for r in measured if r.precision == precision and not r.error]
        failed = tuple(r.name for r in measured if r.precision == precision and r.error)
        if own:
            meta = table_meta(ANY_SPACE, machine, precision, quiet_ms, failed)
            found.append(with_left_out(table.from_records(meta, own), own))
    return found


def _row(path: Path, found: LatencyTable, predictor: LatencyPredictor) -> dict[str, Any]:
    """How well networks were predicted by tables without them."""
    predicted = predictor.affine.apply(np.array([sample.terms for sample in predictor.samples]))
    measured = [sample.measured_ms for sample in predictor.samples]
    row = {"path": str(path), "precision": found.meta.precision, "kernels": len(found.times)}
    return row | accuracy_figures(list(predicted), measured)
