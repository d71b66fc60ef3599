"""Calibration: the latency of whole networks on a device that could only be timed as a whole, and how sure it is.

A Gaussian process (`graph_process`) over features of the graph (`graph_features`) as the device's runtime reads it; which reading that
is (`network.readings`) was chosen by leaving networks out. On disk it is JSON: the process's hyperparameters, and the features and
weights of the networks that it is conditioned on. The 80 % interval is a conformal one: the process's standard deviation, times the
factor that would have covered 80 % of the networks that were left out (Vovk et al., 2005).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.artifacts.kernel import PRECISIONS, Precision
from edgenas.artifacts.latency_estimate import LatencyEstimate
from edgenas.errors import InputError
from edgenas.latency.feature_table import Columns, FeatureTable, Novelty, Tie, novelty, tabulate
from edgenas.latency.graph_features import graph_features
from edgenas.latency.graph_process import GraphProcess
from edgenas.network.graph import Network
from edgenas.network.readings import READINGS, Reading
from edgenas.store import write_text

SCHEMA = 1
SUFFIX = ".calibration.json"
WIDER = 2.0  # the interval of a network unlike the fitted ones, over that of one like them
UNLIKE = (
    0.3  # least relative half-width of a network with kernels, sizes or proportions that none of the fitted ones has
)
GUESSED = 0.5  # the same, of the part that is guessed from the values it moves
LEAST_OF_MEASURED = 0.2  # no prediction is below this share of the fastest measured network


@dataclass(frozen=True)
class CalibrationMeta:
    """`source`: where the measurements come from, in words. `left_out`: figures of networks predicted by fits without them;
    `readings`: each reading's left-out error (root mean square, relative)."""

    device: str
    runtime: str
    precision: Precision
    threads: int
    source: str
    networks: int
    left_out: Mapping[str, float]
    readings: Mapping[str, float]

    @property
    def file_name(self) -> str:
        return f"{self.runtime}-{self.precision}-t{self.threads}{SUFFIX}"


@dataclass(frozen=True)
class Calibration:
    """`values` (N, columns) are the features of the networks that the process is conditioned on; `weights`, `diagonal`, `theta` and
    `scale_ms` are the process's. `interval` is how many of its standard deviations hold 80 %; `domain_ms` bounds the measurements."""

    meta: CalibrationMeta
    reading: Reading
    columns: Columns
    values: np.ndarray
    weights: np.ndarray
    diagonal: np.ndarray
    theta: np.ndarray
    scale_ms: float
    interval: float
    domain_ms: tuple[float, float]

    @cached_property
    def process(self) -> GraphProcess:
        x = self.columns.standardised(self.values)
        return GraphProcess(x, self.weights, self.diagonal, self.theta, self.scale_ms)

    @cached_property
    def digest(self) -> str:
        """Of all that was fitted: calibrated again with more networks it is another one."""
        scalars = np.array([self.scale_ms, self.interval, *self.domain_ms])
        fitted = (self.values, self.weights, self.diagonal, self.theta, scalars)
        return hashlib.sha256(b"".join(np.ascontiguousarray(each, float).tobytes() for each in fitted)).hexdigest()[:12]

    def predict(self, table: FeatureTable) -> tuple[np.ndarray, np.ndarray]:
        """(N,) ms and half-widths of the 80 % interval in ms, of networks like the fitted ones; each row by itself."""
        mean, deviation = self.process.predict(self.columns.standardised(self.columns.values(table)))
        return np.maximum(mean, LEAST_OF_MEASURED * self.domain_ms[0]), self.interval * deviation


@dataclass(frozen=True)
class CalibratedPredictor:
    """Estimates from a Calibration alone, all times `factor`: what later measurements on the device said."""

    calibration: Calibration
    factor: float = 1.0

    @property
    def correction(self) -> dict[str, Any]:
        """What tells it from another one."""
        return {"calibration": self.calibration.digest, "factor": self.factor}

    def corrected(self, network: Network, measured_ms: float) -> CalibratedPredictor:
        """After one more network was measured: where the search looks, the prediction was wrong by that much."""
        return replace(self, factor=self.factor * measured_ms / self.latency_ms(network))

    def latency_ms(self, network: Network) -> float:
        return self.estimate(network).latency_ms

    def estimate(self, network: Network) -> LatencyEstimate:
        return self.estimates([network])[0]

    def estimates(self, networks: Sequence[Network]) -> list[LatencyEstimate]:
        reading = self.calibration.reading
        return self.of_table(tabulate([graph_features(network, (reading,))[reading] for network in networks]))

    def of_table(self, table: FeatureTable) -> list[LatencyEstimate]:
        """`calibrated` for networks like the fitted ones, else `modelled` with a wider interval and notes that say what is new."""
        mean, half = self.calibration.predict(table)
        new = novelty(self.calibration.columns, table)
        scaled = zip(self.factor * mean, self.factor * half, new, strict=True)
        return [_estimate(float(m), float(h), n) for m, h, n in scaled]


def _estimate(ms: float, half_ms: float, new: Novelty) -> LatencyEstimate:
    if new.is_none:
        return LatencyEstimate(ms, max(0.0, ms - half_ms), ms + half_ms, "calibrated")
    known = ms
    ms /= max(1 - new.share, 0.05)  # what is unknown costs as much a value as what is known
    half_ms = float(np.hypot(WIDER * half_ms * ms / known, GUESSED * (ms - known)))
    if new.families or new.shapes or new.proportions:
        half_ms = max(half_ms, UNLIKE * ms)
    low_ms = ms / (1 + half_ms / ms)  # as many times less as more: a wide interval would reach zero otherwise
    return LatencyEstimate(ms, low_ms, ms + half_ms, "modelled", notes=new.notes())


def save(calibration: Calibration, folder: Path) -> Path:
    """`<runtime>-<precision>-t<threads>.calibration.json` in `folder`."""
    path = folder / calibration.meta.file_name
    columns = asdict(calibration.columns)
    data = {
        "schema": SCHEMA,
        "meta": asdict(calibration.meta),
        "reading": calibration.reading,
        "columns": columns,
        "values": [[_number(v) for v in row] for row in calibration.values],
        "weights": [float(v) for v in calibration.weights],
        "diagonal": [float(v) for v in calibration.diagonal],
        "theta": [float(v) for v in calibration.theta],
        "scale_ms": calibration.scale_ms,
        "interval": calibration.interval,
        "domain_ms": list(calibration.domain_ms),
    }
    body = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in data.items())
    write_text(path, "{\n" + body + "\n}\n")
    return path


def load(path: Path) -> Calibration:
    """Raises InputError for a file that can't be read, of another schema, or with numbers that are not finite."""
    hint = "Fit it again: edgenas calibrate."
    try:
        data = json.loads(path.read_text())
        if data.get("schema") != SCHEMA:
            raise InputError(f"{path}: schema {SCHEMA} was expected, but it has {data.get('schema')!r}", hint)
        found = Calibration(
            meta=CalibrationMeta(**data["meta"]),
            reading=data["reading"],
            columns=_columns(data["columns"]),
            **{key: np.array(data[key], float) for key in ("values", "weights", "diagonal", "theta")},
            scale_ms=float(data["scale_ms"]),
            interval=float(data["interval"]),
            domain_ms=(float(data["domain_ms"][0]), float(data["domain_ms"][1])),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InputError(f"the calibration {path} can't be read: {error}", hint) from error
    arrays = (found.values, found.weights, found.diagonal, found.theta)
    rows, width = found.weights.size, len(found.columns.names)
    whole = rows > 0 and [each.shape for each in arrays] == [(rows, width), (rows,), (rows,), (4,)]
    sound = (
        found.reading in READINGS and found.meta.precision in PRECISIONS and min(found.scale_ms, *found.domain_ms) > 0
    )
    numbers = (*arrays, found.scale_ms, found.interval, found.domain_ms)
    if not (whole and sound and all(np.isfinite(each).all() for each in numbers)):
        raise InputError(f"the calibration {path} doesn't hold together: it was changed or cut short", hint)
    return found


def _columns(data: Mapping[str, Any]) -> Columns:
    lists = {key: tuple(data[key]) for key in ("work", "structure", "mean", "std", "low", "high", "rare")}
    ties = {name: Tie(**tie) for name, tie in data["ties"].items()}
    return Columns(**lists, constants=data["constants"], ties=ties)


def _number(value: float) -> float | int:
    """Counts without a point, which a third of the file is."""
    return int(value) if float(value).is_integer() else float(value)
