"""Fits a Calibration to networks that were timed as a whole, and says which networks to time.

One method for every device: each reading of the graphs is fitted, and the one that predicts networks left out best is taken. In doubt
that is `live`, which compilers have: the evidence for another one has to be strong as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.artifacts.kernel import Precision
from edgenas.errors import InputError
from edgenas.latency import graph_process
from edgenas.latency.calibration import Calibration, CalibrationMeta
from edgenas.latency.feature_table import Columns, FeatureTable, columns_of, tabulate
from edgenas.latency.graph_features import graph_features
from edgenas.latency.graph_process import FittedProcess, GraphProcess
from edgenas.network.graph import Network
from edgenas.network.readings import READINGS, Reading

LEAST_NETWORKS = 5
MOST_ROWS = 400  # networks that are kept in a calibration
COVERAGE = 0.8
USUAL: Reading = "live"
STRONG = (
    3.0  # by how much the log evidence of another one has to be above: odds of twenty to one (Kass & Raftery, 1995)
)
CAP = 0.3  # one network's relative error, when readings are compared
SUGGEST_AMONG = 800  # candidates, drawn evenly, when there are more
Tables = Mapping[Reading, FeatureTable]


@dataclass(frozen=True)
class Origin:
    """What a calibration is of; `source` says in words where the measurements come from."""

    device: str
    runtime: str
    precision: Precision
    threads: int
    source: str


def features(networks: Sequence[Network]) -> dict[Reading, FeatureTable]:
    """A table of each reading, rows in the order of the networks."""
    found = [graph_features(network) for network in networks]
    return {reading: tabulate([each[reading] for each in found]) for reading in READINGS}


def fit(tables: Tables, ms: Sequence[float] | np.ndarray, origin: Origin) -> Calibration:
    """Deterministic. Raises InputError for fewer than LEAST_NETWORKS, or latencies that aren't finite and above zero."""
    measured = np.asarray(ms, float)
    if len(measured) < LEAST_NETWORKS:
        raise InputError(
            f"{len(measured)} networks were measured, but a calibration needs {LEAST_NETWORKS}",
            f"Measure more; which: edgenas calibrate --device {origin.device} --suggest 20 --space nas-bench-201 --write DIR.",
        )
    if not (np.isfinite(measured).all() and (measured > 0).all()):
        raise InputError("latencies that are finite and above zero were expected")
    fitted = {reading: _fitted(tables[reading], measured) for reading in READINGS}
    errors = {reading: _left_out_error(process) for reading, (_, process) in fitted.items()}
    reading = _chosen(errors, {r: process.log_evidence for r, (_, process) in fitted.items()})
    columns, best = fitted[reading]
    error, deviation = best.left_out()
    rank = min(1.0, np.ceil((len(measured) + 1) * COVERAGE) / len(measured))
    interval = float(np.quantile(np.abs(error) / deviation, rank))
    meta = CalibrationMeta(
        origin.device,
        origin.runtime,
        origin.precision,
        origin.threads,
        origin.source,
        len(measured),
        _figures(error),
        {str(reading): error for reading, error in errors.items()},
    )
    kept = _representative(best.process)
    process = best.of(kept)
    return Calibration(
        meta=meta,
        reading=reading,
        columns=columns,
        values=columns.values(tables[reading])[kept],
        weights=process.weights,
        diagonal=process.diagonal,
        theta=process.theta,
        scale_ms=process.scale_ms,
        interval=interval,
        domain_ms=(float(measured.min()), float(measured.max())),
    )


def suggest(candidates: Tables, count: int, measured: Tables | None = None) -> list[int]:
    """Indices of the candidates to measure next, the most telling first: each time the one whose measurement says most (maximum
    entropy, Shewry & Wynn, 1987; of a linear model that is the D-optimal design), given those measured and those before it, summed
    over the readings."""
    size = len(candidates[USUAL])
    pool = np.unique(np.linspace(0, size - 1, min(size, SUGGEST_AMONG)).astype(int))
    left = [_prior_covariance(candidates[r].rows(pool), measured[r] if measured else None) for r in READINGS]
    noise = float(np.exp(2 * graph_process.prior_theta()[3]))
    chosen: list[int] = []
    for _ in range(min(count, len(pool))):
        gain = np.zeros(len(pool))
        for covariance in left:
            gain += np.log1p(np.maximum(np.diag(covariance), 0.0) / noise)
        gain[chosen] = -1.0
        best = int(np.argmax(gain))
        chosen.append(best)
        for covariance in left:
            column = covariance[:, best].copy()
            covariance -= np.outer(column, column / (column[best] + noise))
    return [int(pool[i]) for i in chosen]


def _prior_covariance(candidates: FeatureTable, measured: FeatureTable | None) -> np.ndarray:
    """(N, N) of the candidates, before anything is known of the device but that `measured` have been measured."""
    columns, theta = columns_of(candidates), graph_process.prior_theta()
    x = columns.standardised(columns.values(candidates))
    found = graph_process.covariance(x, x, theta)
    if measured is not None and len(measured):
        known = columns.standardised(columns.values(measured))
        inner = graph_process.covariance(known, known, theta) + np.eye(len(known)) * np.exp(2 * theta[3])
        between = graph_process.covariance(x, known, theta)
        found -= between @ np.linalg.solve(inner, between.T)
    return found


def _fitted(table: FeatureTable, measured: np.ndarray) -> tuple[Columns, FittedProcess]:
    columns = columns_of(table)
    return columns, graph_process.fit(columns.standardised(columns.values(table)), measured)


def _left_out_error(process: FittedProcess) -> float:
    error, _ = process.left_out()
    return float(np.sqrt((np.minimum(np.abs(error), CAP) ** 2).mean()))


def _chosen(errors: Mapping[Reading, float], evidence: Mapping[Reading, float]) -> Reading:
    better = [
        reading
        for reading in READINGS
        if errors[reading] < errors[USUAL] and evidence[reading] > evidence[USUAL] + STRONG
    ]
    return min(better, key=lambda reading: errors[reading], default=USUAL)


def _figures(error: np.ndarray) -> dict[str, float]:
    apart = np.abs(error)
    return {
        "mape_pct": float(apart.mean() * 100),
        "within_5pct": float((apart <= 0.05).mean()),
        "within_10pct": float((apart <= 0.1).mean()),
    }


def _representative(process: GraphProcess) -> np.ndarray:
    """Indices of at most MOST_ROWS networks: each the one that those before it say least about (pivoted Cholesky)."""
    size = len(process.x)
    if size <= MOST_ROWS:
        return np.arange(size)
    left = graph_process.variances(process.x, process.theta).copy()
    factors = np.zeros((MOST_ROWS, size))
    chosen: list[int] = []
    for step in range(MOST_ROWS):
        best = int(np.argmax(np.where(np.isin(np.arange(size), chosen), -1.0, left)))
        chosen.append(best)
        row = graph_process.covariance(process.x.rows(slice(best, best + 1)), process.x, process.theta)[0]
        factor = (row - factors[:step].T @ factors[:step, best]) / np.sqrt(max(left[best], 1e-9))
        factors[step] = factor
        left = np.maximum(left - factor**2, 0.0)
    return np.sort(chosen)
