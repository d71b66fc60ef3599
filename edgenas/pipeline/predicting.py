"""The stages of measuring.py for a device that can't be reached: from the tables and calibrations that are known of it."""

from __future__ import annotations

import numpy as np

from edgenas.artifacts.kernel import Precision
from edgenas.latency import calibration as calibrations
from edgenas.latency import table
from edgenas.latency.calibration import CalibratedPredictor
from edgenas.latency.fastest import FastestPredictor
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.stored import Stored, predictor_for
from edgenas.pipeline.context import Build
from edgenas.pipeline.measuring import Feasibility, Profile, refuse_what_is_infeasible
from edgenas.store import file_hash, key_of

SAMPLES = 400
DEFAULT_QUANTILE = 0.25  # of the space's latencies: the budget where none was asked for


def known_profile(build: Build) -> Profile:
    """From the user's files and those that ship; `opened_build` has refused a device of which there is nothing."""
    machine = build.machine
    predictors: dict[Precision, LatencyPredictor | CalibratedPredictor] = {}
    accuracy: dict[Precision, dict[str, float]] = {}
    sources: list[Stored] = []
    for precision in machine.known():
        predictors[precision], source = predictor_for(machine.spec.id, machine.runtime.NAME, precision, machine.threads)
        accuracy[precision] = _accuracy(source)
        sources.append(source)
    key = key_of({source.name: file_hash(source.path) for source in sources})
    return Profile(key, predictors, 0.0, (), accuracy, tuple(source.path for source in sources), ())


def _accuracy(source: Stored) -> dict[str, float]:
    """How well networks were predicted that were left out, as result.json has it."""
    if source.kind == "table":
        return {"n_held_out": len(table.load(source.path).networks)}
    meta = calibrations.load(source.path).meta
    return {key: value for key, value in meta.left_out.items() if ":" not in key} | {"n_held_out": meta.networks}


def predicted_feasibility(build: Build, profile: Profile) -> Feasibility:
    """Raises InfeasibleBudget when even the fastest of the smallest subnets is predicted over the budget."""
    space, predictor = build.space, FastestPredictor(profile.predictors)
    smallest = [space.network(subnet) for subnet in space.smallest()]
    fastest = min(smallest, key=predictor.latency_ms)
    rng = np.random.default_rng(build.request.seed)
    genomes = np.array([space.sample(rng).genome for _ in range(SAMPLES)])
    ms = predictor.over(space)(genomes)
    smallest_ms = min(predictor.latency_ms(fastest), float(ms.min()))
    default_ms = float(np.quantile(ms, DEFAULT_QUANTILE))
    found = Feasibility(smallest_ms, predictor.precision(fastest), default_ms, 0.0, "predicted")
    return refuse_what_is_infeasible(build, found)
