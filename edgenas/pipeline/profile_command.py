"""`edgenas profile`: measures a device's search space for builds, and generic networks for `predict`; tables into the user's folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgenas import device as devices
from edgenas.data import Dataset
from edgenas.latency import predictor as predictors
from edgenas.latency import profile, records, table
from edgenas.latency.cross_validation import with_left_out
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.profile_generic import GenericPlan, profile_generic
from edgenas.latency.records import ProfiledNetwork
from edgenas.latency.table import ANY_SPACE, LatencyTable
from edgenas.pipeline.at_once import at_once
from edgenas.pipeline.context import Machine, address_of, load_dataset, opened_machine, space_of
from edgenas.pipeline.measuring import (
    RECORDS,
    generic_plan_for,
    plan_for,
    profile_inputs,
    quiet_reference_ms,
    run_profile,
    table_meta,
    work_folder,
)
from edgenas.pipeline.request import EFFORTS
from edgenas.progress import Progress
from edgenas.spaces.trainable import DEFAULT, refuse_unknown
from edgenas.stats import accuracy_figures
from edgenas.store import Store

NOISY_SHARE = 0.1  # of the measurements, from which on the user is told


def profile_devices(
    places: Sequence[tuple[str, str | None]],
    progress: Progress,
    *,
    data: str | None,
    effort: str,
    seed: int,
    **options: Any,
) -> list[dict[str, Any] | Exception]:
    """`profile_device` for each (device, target), those that are different machines at the same time. What can't be profiled at all is
    refused before anything is measured; one that fails later stops no other, and its exception is in the place of its result."""
    addresses = [address_of(device, target) for device, target in places]
    refuse_unknown(options["space"] or DEFAULT)
    dataset = load_dataset(data, EFFORTS[effort], seed, progress)
    jobs = []
    for device, target in places:
        beside = progress.labelled(device) if len(places) > 1 else progress
        of_device = partial(profile_device, device, beside, target=target, data=data, dataset=dataset)
        jobs.append(partial(of_device, effort=effort, seed=seed, **options))
    return at_once(list(zip(addresses, jobs, strict=True)))


def profile_device(
    device: str,
    progress: Progress,
    *,
    target: str | None,
    runtime: str | None,
    data: str | None,
    space: str | None,
    effort: str,
    threads: int | None,
    seed: int,
    minutes: float | None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Raw records stay in a work folder beside the tables, so that a killed run goes on where it stopped. `minutes` bounds the
    generic networks, which come last."""
    chosen, start = EFFORTS[effort], time.monotonic()
    dataset = dataset or load_dataset(data, chosen, seed, progress)
    with opened_machine(device, target, threads, runtime) as machine:
        store = Store(work_folder(device))
        try:
            chosen_space = space_of(space or DEFAULT, dataset, [machine])
            of_space_plan = plan_for(machine, chosen.plan)
            stage = store.stage("profile", profile_inputs(chosen_space, machine, of_space_plan))
            found = run_profile(chosen_space, machine, of_space_plan, stage, progress)
            left_s = None if minutes is None else max(0.0, 60 * minutes - (time.monotonic() - start))
            plan = generic_plan_for(machine, GenericPlan(max_s=left_s, seed=seed))
            path = store.stage("generic", {"machine": machine.key, "seed": seed}).path(RECORDS)
            with progress.stage("generic", "Profiling networks of all common kinds", cached=False):
                generic = profile_generic(
                    machine.bench, machine.precisions, plan, machine.weight_bits, path, progress.update
                )
            of_space = [r for r in records.read(stage.path(RECORDS)) if not r.name.startswith(profile.HELD_OUT)]
            with progress.stage("tables", "Fitting the tables", cached=False):
                made = tables(machine, [*of_space, *generic])
        finally:
            store.close()
        noisy = [r.name for r in (*of_space, *generic) if r.whole is not None and r.whole.warnings]
        noisy_share = len(noisy) / max(len(of_space) + len(generic), 1)
        if noisy_share > NOISY_SHARE:
            progress.warn(
                f"the machine is too noisy: {noisy_share:.0%} of the measurements were taken while it was busy, or repeats disagree. "
                "Close what else runs and profile again with another --seed."
            )
        folder = devices.user_folder("latency_tables") / device
        rows = [
            _row(table.save(each, folder), each, predictors.fit(each, machine.bench.fusion(each.meta.precision)))
            for each in made
        ]
    return {
        "device": device,
        "tables": rows,
        "noisy_share": noisy_share,
        "space": found.accuracy,
        "failed": list(found.failed),
    }


def tables(machine: Machine, measured: list[ProfiledNetwork]) -> list[LatencyTable]:
    """One a precision, for arbitrary models, of all that was measured."""
    quiet_ms = quiet_reference_ms(measured)
    found = []
    for precision in machine.precisions:
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
