"""The latency tables and calibrations that lie in the user's folder and those that come with edgenas; the user's win."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgenas import device as devices
from edgenas.artifacts.kernel import Precision
from edgenas.errors import InputError
from edgenas.latency import calibration as calibrations
from edgenas.latency import predictor as predictors
from edgenas.latency import table
from edgenas.latency.calibration import SUFFIX, CalibratedPredictor
from edgenas.latency.predictor import LatencyPredictor
from edgenas.runtimes.runtime import load_runtime


@dataclass(frozen=True)
class Stored:
    """A file named `<runtime>-<precision>-t<threads>`; `is_own`: in the user's folder."""

    name: str
    kind: Literal["table", "calibration"]
    path: Path
    is_own: bool


def stored(device: str) -> list[Stored]:
    """Of each name the one that is used: the user's before the shipped, a table before a calibration."""
    found: dict[str, Stored] = {}
    for is_own, root in ((True, devices.user_folder), (False, devices.shipped)):
        folder = root("latency_tables") / device
        for path in sorted(folder.glob("*.csv")):
            found.setdefault(path.stem, Stored(path.stem, "table", path, is_own))
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            name = path.name.removesuffix(SUFFIX)
            found.setdefault(name, Stored(name, "calibration", path, is_own))
    return [found[name] for name in sorted(found)]


def predictor_for(
    device: str, runtime: str, precision: Precision, threads: int
) -> tuple[LatencyPredictor | CalibratedPredictor, Stored]:
    """Fitted from the file. Raises InputError where there is none, with what there is."""
    spec = devices.load(device)
    if precision not in (known := spec.runtime(runtime).precisions):
        raise InputError(f"{runtime} on {device!r} has no {precision}", f"With --precision: {', '.join(known)}.")
    name = f"{runtime}-{precision}-t{threads}"
    there = {each.name: each for each in stored(device)}
    if name not in there:
        profile = "" if spec.predict_only else f"Measure one on the device (edgenas profile --device {device}). Or t"
        raise InputError(
            f"device {device!r} has no latency table and no calibration {name}; it has {', '.join(there) or 'none'}",
            f"{profile or 'T'}ime whole networks on it, and: edgenas calibrate --device {device} --runtime {runtime} "
            f"--precision {precision} --threads {threads} --measured FILE.csv.",
        )
    found = there[name]
    if found.kind == "calibration":
        return CalibratedPredictor(calibrations.load(found.path)), found
    made = table.load(found.path)
    rules = load_runtime(runtime).fusion(precision, made.meta.machine.get("isa", ()))
    return predictors.fit(made, rules), found
