"""`edgenas calibrate`: a predictor for a device that is only timed as a whole, and which networks to time next."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgenas import device as devices
from edgenas.artifacts.device_spec import DeviceSpec
from edgenas.artifacts.kernel import Precision
from edgenas.errors import EdgenasError, InputError
from edgenas.latency import calibration as calibrations
from edgenas.latency import predictor as predictors
from edgenas.latency import table
from edgenas.latency.calibrate import LEAST_NETWORKS, Origin, features, fit, suggest
from edgenas.network.fuse import fuse
from edgenas.network.graph import Network
from edgenas.network.readings import depends_on_input, live
from edgenas.onnxio.random_weights import random_weights
from edgenas.onnxio.read import read
from edgenas.onnxio.write import to_onnx
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces.architectures import SPACES, is_architecture, network_of

NETWORK_COLUMNS = ("network", "model", "path", "architecture", "arch_str")
MS_COLUMNS = ("ms", "latency_ms")
CANDIDATES = 800  # drawn from a space to choose suggestions among


@dataclass(frozen=True)
class Row:
    """One line of the file; `ms` is None where nothing was measured yet."""

    line: int
    text: str
    network: Network
    ms: float | None


def calibrate_device(
    device: str,
    *,
    measured: Path | None,
    suggestions: int | None,
    space: str | None,
    write: Path | None,
    runtime: str | None,
    precision: Precision | None,
    threads: int | None,
) -> dict[str, Any]:
    """Fits to `measured` and writes the calibration into the user's folder; where there is a table of the device, it gets the
    networks instead. The suggested architectures become ONNX files in `write`. Raises InputError, naming the line, before anything is
    written."""
    origin = _origin(devices.load(device), runtime, precision, threads, measured)
    if measured is None and suggestions is None:
        raise InputError("there is nothing to do", "Give --measured FILE.csv, or --suggest N with --space.")
    if write is not None and suggestions is None:
        raise InputError("--write is where suggested networks go", "Give --suggest N and --space too.")
    rows = read_rows(measured, may_lack_ms=suggestions is not None) if measured else []
    dead = [row for row in rows if not depends_on_input(row.network)]
    rows = [row for row in rows if row not in dead]
    timed = [row for row in rows if row.ms is not None]
    result: dict[str, Any] = {
        "device": device,
        "runtime": origin.runtime,
        "precision": origin.precision,
        "threads": origin.threads,
        "networks": len(timed),
        "left_out": [row.text for row in dead],
    }
    if measured and (suggestions is None or len(timed) >= LEAST_NETWORKS):
        result |= _calibrated(timed, origin)
    if suggestions is not None:
        chosen = _suggested(rows, timed, suggestions, space)
        result["suggested"] = _written(chosen, write) if write else chosen
    return result


def read_rows(path: Path, may_lack_ms: bool) -> list[Row]:
    """Raises InputError naming the line for a network that can't be read or an ms that isn't a finite number above zero."""
    try:
        lines = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    hint = (
        "The first line names the columns: network,ms. A network is a path to an ONNX file or an architecture string. "
        "Commas part the columns, and numbers have a decimal point."
    )
    if not lines:
        raise InputError(f"{path} holds no networks", hint)
    columns = [next((n for n in names if n in lines[0]), "") for names in (NETWORK_COLUMNS, MS_COLUMNS)]
    if not columns[0] or (not columns[1] and not may_lack_ms):
        missing = "ms" if columns[0] else "network"
        there = ", ".join(filter(None, lines[0]))
        raise InputError(f"{path}, line 1: the column {missing!r} is missing; there are {there}", hint)
    known: dict[str, Network] = {}
    rows = []
    for number, line in enumerate(lines, start=2):
        where = f"{path}, line {number}"
        if None in line:  # DictReader's key for what has no column
            raise InputError(
                f"{where}: it has more fields than line 1 names columns",
                "Put a network with commas in quotes, and write numbers with a decimal point.",
            )
        text = (line[columns[0]] or "").strip()
        ms = _ms(where, (line.get(columns[1]) or "").strip(), may_lack_ms)
        if text not in known:
            known[text] = _network(where, text, path.parent)
        rows.append(Row(number, text, known[text], ms))
    return rows


def _ms(where: str, text: str, may_be_missing: bool) -> float | None:
    if not text and may_be_missing:
        return None
    try:
        ms = float(text)
    except ValueError:
        ms = math.nan
    if not math.isfinite(ms) or ms <= 0:
        raise InputError(
            f"{where}: ms is {repr(text) if text else 'empty'}; a finite number above zero was expected",
            "Correct or delete the line." + ("" if text else " With --suggest, lines without ms are candidates."),
        )
    return ms


def _network(where: str, text: str, folder: Path) -> Network:
    try:
        if is_architecture(text):
            return network_of(text)
        beside = folder / text
        path = beside if text and beside.is_file() else Path(text)
        if not text or not path.is_file():
            raise InputError(
                f"{text!r} is neither a file nor an architecture string",
                "Paths count from the CSV file's folder. Architectures: |op~0|+|op~0|op~1|+..., 0110/0001/0001/0000:op,op, or "
                "Genotype(normal=[...], ...).",
            )
        return read(path)
    except EdgenasError as error:
        raise InputError(f"{where}: {error.message}", error.hint) from error


def _origin(
    spec: DeviceSpec, runtime: str | None, precision: Precision | None, threads: int | None, measured: Path | None
) -> Origin:
    name = runtime or spec.default_runtime
    there = spec.runtime(name).precisions
    chosen = precision or ("fp32" if "fp32" in there else next(iter(there)))
    if chosen not in there:
        raise InputError(f"{name} on {spec.id!r} has no {chosen}", f"Its precisions: {', '.join(there)}.")
    source = f"measured networks in {measured.name}" if measured else ""
    return Origin(spec.id, name, chosen, threads or spec.threads, source)


def _calibrated(timed: Sequence[Row], origin: Origin) -> dict[str, Any]:
    folder = devices.user_folder("latency_tables") / origin.device
    name = f"{origin.runtime}-{origin.precision}-t{origin.threads}.csv"
    shipped = devices.shipped("latency_tables") / origin.device
    for found in (folder / name, shipped / name):
        if found.is_file() and (corrected := _corrected_table(found, timed, origin, folder)):
            return corrected
    fitted = fit(features([row.network for row in timed]), [row.ms or math.nan for row in timed], origin)
    path = calibrations.save(fitted, folder)
    return {
        "method": "calibration",
        "path": str(path),
        "reading": fitted.reading,
        "readings": dict(fitted.meta.readings),
        "error": dict(fitted.meta.left_out),
        "domain": {
            "low_ms": fitted.domain_ms[0],
            "high_ms": fitted.domain_ms[1],
            "families": fitted.columns.families,
        },
    }


def _corrected_table(path: Path, timed: Sequence[Row], origin: Origin, folder: Path) -> dict[str, Any] | None:
    """The table with the networks whose kernels all stand in it; None if there are none."""
    found = table.load(path)
    rules = load_runtime(origin.runtime).fusion(origin.precision, found.meta.machine.get("isa", ()))
    new = []
    for row in timed:
        kernels = tuple(each.kernel for each in fuse(row.network, rules, origin.precision))
        if row.ms is not None and all(kernel in found.times for kernel in kernels):
            new.append(table.TimedNetwork(kernels, row.ms))
    if not new:
        return None
    added = tuple(network for network in new if network not in found.networks)
    corrected = replace(found, networks=found.networks + added)
    predictor = predictors.fit(corrected, rules)
    saved = table.save(corrected, folder)
    guesses = [predictor.estimate_kernels(network.kernels).latency_ms for network in new]
    apart = np.abs(np.array(guesses) / np.array([network.ms for network in new]) - 1)
    return {
        "method": "table",
        "path": str(saved),
        "networks_used": len(new),
        "error": {"mape_pct": float(apart.mean() * 100), "within_10pct": float((apart <= 0.1).mean())},
    }


def _suggested(rows: Sequence[Row], timed: Sequence[Row], count: int, space: str | None) -> list[str]:
    known = {row.text for row in timed}
    candidates = {row.text: row.network for row in rows if row.ms is None and row.text not in known}
    if space is not None:
        candidates |= {text: network for text, network in _drawn(space).items() if text not in known}
    if not candidates:
        raise InputError(
            "there are no networks to choose from",
            f"Name a space (--space {next(iter(SPACES))}), or add lines without ms to the --measured file.",
        )
    texts = list(candidates)
    measured = features([row.network for row in timed]) if timed else None
    return [texts[i] for i in suggest(features(list(candidates.values())), count, measured)]


def _written(texts: Sequence[str], folder: Path) -> list[str]:
    """The architectures among `texts` as FP32 files with random weights, on which latency doesn't depend, in their place the paths."""
    import onnx

    found = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(texts):
            if is_architecture(text):
                network = live(network_of(text))  # ONNX has no operator that makes nothing
                path = folder / f"network-{number:03}.onnx"
                onnx.save(to_onnx(network, random_weights(network, 0)), path)
                found.append(str(path))
            else:
                found.append(text)
    except OSError as error:
        raise InputError(f"{folder} can't be written: {error.strerror or error}", "Name another folder.") from None
    return found


def _drawn(name: str) -> dict[str, Network]:
    """Architectures of a space, the same ones every time."""
    if name not in SPACES:
        raise InputError(f"there is no space {name!r} to draw networks from", f"Spaces: {', '.join(SPACES)}.")
    space, rng = SPACES[name], np.random.default_rng(0)
    found: dict[str, Network] = {}
    for _ in range(CANDIDATES):
        subnet = space.sample(rng)
        network = space.network(subnet)
        if depends_on_input(network):
            found.setdefault(space.text(subnet), network)
    return found
