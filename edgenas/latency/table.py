"""LatencyTable: what each kernel takes on one device, in one runtime and precision. CSV beside a `.meta.json`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.errors import InputError
from edgenas.latency.kernel_model import KernelModel, network_mib
from edgenas.latency.records import ProfiledNetwork
from edgenas.store import write_text

SCHEMA = 2
ANY_SPACE = ""  # the space of a table for arbitrary models
_NUMBERS = ("mean_ms", "p10_ms", "p50_ms", "network_mib")
_TIMES = ("mean_ms", "p10_ms", "p50_ms", "n", "network_mib")


@dataclass(frozen=True)
class KernelTime:
    """Over the networks in which a kernel was seen: `mean_ms`, the first quartile of its times at the machine's quiet speed
    (other work on the machine only ever adds); p10 and p50 of all runs as they were; and their number. `network_mib`: what
    one run of those networks moves, their geometric mean."""

    mean_ms: float
    p10_ms: float
    p50_ms: float
    n: int
    network_mib: float = 0.0


@dataclass(frozen=True)
class TableMeta:
    """Where a table comes from. `machine` is the agent's probe: CPU, clocks, RAM, load, versions."""

    device: str
    runtime: str
    runtime_version: str
    precision: Precision
    threads: int
    space_id: str
    quiet_reference_ms: float
    machine: Mapping[str, Any]
    failed: tuple[str, ...] = ()
    schema: int = SCHEMA


@dataclass(frozen=True)
class LeftOut:
    """The sum of a network's kernels by a table without that network, and how unsure it is (relative)."""

    sum_ms: float
    unsure: float


@dataclass(frozen=True)
class TimedNetwork:
    """A whole network that was timed with the table: `ms` at the machine's quiet speed."""

    kernels: tuple[Kernel, ...]
    ms: float
    left_out: LeftOut | None = None


@dataclass(frozen=True)
class LatencyTable:
    meta: TableMeta
    times: Mapping[Kernel, KernelTime]
    networks: tuple[TimedNetwork, ...] = ()

    @property
    def in_context(self) -> bool:
        """Whether its networks are of all sizes, so that what a kernel takes depends on the network that it runs in."""
        return self.meta.space_id == ANY_SPACE

    @property
    def file_name(self) -> str:
        return f"{self.meta.runtime}-{self.meta.precision}-t{self.meta.threads}.csv"


def kernel_model(table: LatencyTable) -> KernelModel:
    times_ms = {kernel: time.mean_ms for kernel, time in table.times.items()}
    return KernelModel(times_ms, {k: time.network_mib for k, time in table.times.items()} if table.in_context else None)


def from_records(meta: TableMeta, records: Sequence[ProfiledNetwork]) -> LatencyTable:
    """The table of the records of `meta.precision`, and their networks as a whole."""
    quiet = meta.quiet_reference_ms
    runs: dict[Kernel, list[tuple[float, ...]]] = {}
    quiet_ms: dict[Kernel, list[float]] = {}
    log_mib: dict[Kernel, list[float]] = {}
    for record in records:
        if record.precision == meta.precision and record.error is None:
            mib = float(np.log(network_mib(record.kernels)))
            for kernel, us, ms in zip(record.kernels, record.kernel_us, record.kernel_ms(quiet), strict=True):
                if us and ms is not None:
                    runs.setdefault(kernel, []).append(us)
                    quiet_ms.setdefault(kernel, []).append(ms)
                    log_mib.setdefault(kernel, []).append(mib)
    networks = tuple(
        TimedNetwork(record.kernels, record.whole.steady_ms(quiet))
        for record in records
        if record.precision == meta.precision and record.whole is not None and runs.keys() >= set(record.kernels)
    )
    return LatencyTable(meta, {k: _time(runs[k], quiet_ms[k], log_mib[k]) for k in sorted(runs)}, networks)


def _time(each: list[tuple[float, ...]], quiet_ms: list[float], log_mib: list[float]) -> KernelTime:
    every = np.concatenate([np.asarray(us, float) for us in each])
    return KernelTime(
        mean_ms=float(np.quantile(quiet_ms, 0.25)),
        p10_ms=float(np.percentile(every, 10)) / 1e3,
        p50_ms=float(np.percentile(every, 50)) / 1e3,
        n=len(every),
        network_mib=float(np.exp(np.mean(log_mib))),
    )


def save(table: LatencyTable, folder: Path) -> Path:
    """`<runtime>-<precision>-t<threads>.csv`, `.meta.json` and `.networks.json` in `folder`; returns the CSV's path. A network's
    kernels are rows of the CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Kernel)] + list(_TIMES), lineterminator="\n")
    writer.writeheader()
    for kernel, time in table.times.items():
        times = {name: f"{getattr(time, name):.6g}" for name in _NUMBERS} | {"n": str(time.n)}
        writer.writerow(kernel.to_row() | times)
    path = folder / table.file_name
    write_text(path, text.getvalue())
    rows = {kernel: i for i, kernel in enumerate(table.times)}
    networks = [
        {"ms": each.ms, "kernels": [rows[kernel] for kernel in each.kernels]}
        | ({"left_out": asdict(each.left_out)} if each.left_out else {})
        for each in table.networks
    ]
    write_text(path.with_suffix(".meta.json"), json.dumps(asdict(table.meta), indent=2) + "\n")
    write_text(path.with_suffix(".networks.json"), json.dumps(networks) + "\n")
    return path


def load(path: Path) -> LatencyTable:
    """Raises InputError naming the line for a row that can't be read, a kernel that stands twice or another schema."""
    meta_path = path.with_suffix(".meta.json")
    try:
        meta = json.loads(meta_path.read_text())
        if meta.get("schema") != SCHEMA:
            raise InputError(f"{meta_path}: schema {SCHEMA} was expected, but it has {meta.get('schema')!r}")
        meta["failed"] = tuple(meta["failed"])
        head = TableMeta(**meta)
        reader = csv.DictReader(path.read_text().splitlines())
        rows = list(reader)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"the latency table {path} can't be read: {error}", "Measure it again: edgenas profile."
        ) from error
    missing = {"op", "in_shape", *_TIMES} - set(reader.fieldnames or ())
    if missing:
        raise InputError(
            f"{path}, line 1: the columns {sorted(missing)} are missing", "Measure it again: edgenas profile."
        )
    times: dict[Kernel, KernelTime] = {}
    for line, row in enumerate(rows, start=2):
        try:
            kernel = Kernel.from_row(row)
            values = [float(row[name]) for name in _NUMBERS]
            count = int(row["n"])
        except (InputError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}, line {line}: {error}") from error
        if kernel in times or not all(np.isfinite(values)) or min(values) < 0:
            raise InputError(f"{path}, line {line}: the kernel stands twice, or a time is not a finite number >= 0")
        times[kernel] = KernelTime(values[0], values[1], values[2], count, values[3])
    return LatencyTable(head, times, _networks(path.with_suffix(".networks.json"), tuple(times)))


def _networks(path: Path, kernels: Sequence[Kernel]) -> tuple[TimedNetwork, ...]:
    try:
        found = tuple(
            TimedNetwork(
                tuple(kernels[row] for row in each["kernels"]),
                float(each["ms"]),
                LeftOut(**each["left_out"]) if "left_out" in each else None,
            )
            for each in json.loads(path.read_text())
        )
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(
            f"the timed networks {path} can't be read: {error}", "Measure them again: edgenas profile."
        ) from error
    if wrong := [each.ms for each in found if not np.isfinite(each.ms) or each.ms <= 0]:
        raise InputError(f"{path}: a latency is {wrong[0]}; a finite number above zero was expected")
    return found
