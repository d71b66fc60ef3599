"""Tables of per-operation times that others measured: a CSV with a row for each operation of each network, as mobile-ml-benchmark
(MIT licence) publishes them for TensorFlow Lite on phones, read into Kernels; and the times of the whole networks.

Operations get their ONNX names. What a kernel fuses is read from its name (`convolution_2d_1_linked_:_relu_2`): TensorFlow Lite's GPU
delegate links an element-wise operation to the one before it where nothing else reads that, a rule of the graph alone, before it
chooses how to execute a convolution. So the links are the same on every device and tell of the architecture; how a kernel is
implemented (Winograd or not) is not read. Where a device's name hides them (`convolution_winograd_4x4_6x6_1`) another's shows them.
"""

from __future__ import annotations

import ast
import csv
import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.errors import InputError
from edgenas.latency.table import KernelTime, LatencyTable, TableMeta, TimedNetwork

FUSED_NAMES = {
    "relu": "Relu",
    "add": "Add",
    "mul": "Mul",
    "hard_swish": "HardSwish",
    "sigmoid": "Sigmoid",
    "minimum": "Min",
    "maximum": "Max",
    "sub": "Sub",
    "tanh": "Tanh",
    "prelu": "PRelu",
}
OPERATIONS = (
    *("CONV_2D", "CONV_2D_GROUP", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN", "CONCATENATION", "MAX_POOL_2D"),
    "AVERAGE_POOL_2D",
)
LINK = "_linked_:_"
PUBLISHED = "published"  # such a table's space: kernels as they stand there, whatever else the network moves
PRECISION: Precision = "fp16"  # what the GPU delegate computes in unless told otherwise


@dataclass(frozen=True)
class TimedOperation:
    kernel: Kernel
    ms: float


@dataclass(frozen=True)
class OperationTable:
    """Network -> its operations in their order, on one device."""

    device: str
    networks: Mapping[str, tuple[TimedOperation, ...]]

    def times_ms(self, networks: Sequence[str]) -> dict[Kernel, float]:
        """Every kernel of these networks and its time: the geometric mean over where it stands."""
        seen: dict[Kernel, list[float]] = {}
        for name in networks:
            for each in self.networks[name]:
                seen.setdefault(each.kernel, []).append(each.ms)
        return {kernel: float(np.exp(np.mean(np.log(ms)))) for kernel, ms in sorted(seen.items())}

    def latency_table(self, networks: Sequence[str], whole_ms: Mapping[str, float]) -> LatencyTable:
        """What was measured of these networks, as a table that a predictor is fitted from like any other."""
        meta = TableMeta(
            self.device, "tflite", "", PRECISION, threads=1, space_id=PUBLISHED, quiet_reference_ms=0.0, machine={}
        )
        times = {kernel: KernelTime(ms, ms, ms, 1) for kernel, ms in self.times_ms(networks).items()}
        return LatencyTable(meta, times, tuple(TimedNetwork(self.kernels(name), whole_ms[name]) for name in networks))

    def kernels(self, network: str) -> tuple[Kernel, ...]:
        return tuple(each.kernel for each in self.networks[network])


def read_operations(path: Path, device: str) -> OperationTable:
    """The columns `model`, `operation`, `feature` (a dictionary of shapes, as text), `<device>|<cores>|<precision>` (microseconds) and
    `<device>|<cores>|kernel`; gzip or plain. Rows in which the device has no time make their network incomplete, and it is left out.

    Raises InputError for a file that can't be read and for a device that isn't there, and naming the line for a row that can't be.
    """
    rows = list(_rows(path, ("model", "operation", "feature")))
    header = list(rows[0][1]) if rows else []
    times = [c for c in header if c.startswith(f"{device}|") and not c.endswith("|kernel")]
    names = [c for c in header if c.endswith("|kernel")]
    if len(times) != 1:
        known = sorted({c.split("|")[0] for c in names})
        raise InputError(
            f"{path}: one column of times was expected for the device {device!r}, but it has {times or 'none'}",
            f"Devices of this file: {', '.join(known) or 'none'}.",
        )
    networks: dict[str, list[TimedOperation]] = {}
    incomplete = set()
    for line, row in rows:
        text = row[times[0]].strip()
        if text in ("", "nan", "-"):
            incomplete.add(row["model"])
            continue
        try:
            us = float(text)
            if not (isfinite(us) and us > 0):
                raise ValueError(f"the time {text!r} is not a number > 0")
            operation = TimedOperation(kernel_of(row["operation"], row["feature"], [row[c] for c in names]), us / 1e3)
        except (ValueError, KeyError, SyntaxError, TypeError) as error:
            raise InputError(f"{path}, line {line}: {_said(error)}") from error
        networks.setdefault(row["model"], []).append(operation)
    return OperationTable(device, {n: tuple(each) for n, each in networks.items() if n not in incomplete})


def read_networks_ms(path: Path, device: str) -> dict[str, float]:
    """Network -> mean ms of the whole, from the columns `model`, `device`, `mean_us`.

    Raises InputError for a file that can't be read or that holds nothing of the device, and naming the line for a bad row or a
    network that stands twice.
    """
    found: dict[str, float] = {}
    for line, row in _rows(path, ("model", "device", "mean_us")):
        if row["device"] != device:
            continue
        try:
            ms = float(row["mean_us"]) / 1e3
        except ValueError as error:
            raise InputError(f"{path}, line {line}: the time {row['mean_us']!r} is not a number") from error
        if row["model"] in found or not (isfinite(ms) and ms > 0):
            raise InputError(f"{path}, line {line}: {row['model']!r} stands twice, or its time is not a number > 0")
        found[row["model"]] = ms
    if not found:
        raise InputError(f"{path}: it holds no network of the device {device!r}")
    return found


def kernel_of(operation: str, feature: str, kernel_names: Sequence[str]) -> Kernel:
    """`feature` is a dictionary as text: side lengths, channels, stride, kernel side, filters, groups; `-` where there is none.

    Raises ValueError or KeyError saying what is missing or unknown.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"the operation {operation!r} is not one of {', '.join(OPERATIONS)}")
    shape = ast.literal_eval(feature)
    if not isinstance(shape, dict):
        raise ValueError(f"the features {feature!r} are not a dictionary")
    fused = max((_fused(name) for name in kernel_names), key=len, default=())
    channels = _whole(shape, "Input_channel")
    if operation == "FULLY_CONNECTED":
        return Kernel("Gemm", (channels,), (_whole(shape, "Filter"),), fused=fused, precision=PRECISION)
    side = _whole(shape, "Input_shape")
    if operation == "MEAN" or (operation == "AVERAGE_POOL_2D" and str(shape.get("Output_shape")) == "1"):
        return Kernel("GlobalAveragePool", (channels, side, side), (channels, 1, 1), fused=fused, precision=PRECISION)
    out = _whole(shape, "Output_shape")
    if operation == "CONCATENATION":
        made = (_whole(shape, "Filter"), out, out)
        return Kernel("Concat", (channels, side, side), made, fused=fused, precision=PRECISION)
    kernel, stride = _whole(shape, "Kernel"), _whole(shape, "Stride")
    filters, groups, op = (
        channels,
        1,
        {"MAX_POOL_2D": "MaxPool", "AVERAGE_POOL_2D": "AveragePool"}.get(operation, "Conv"),
    )
    if operation == "DEPTHWISE_CONV_2D":
        filters, groups = channels * _whole(shape, "Filter"), channels
    elif op == "Conv":
        filters, groups = _whole(shape, "Filter"), _whole(shape, "Group")
    if channels % groups or filters % groups:
        raise ValueError(f"{channels} channels in and {filters} out can't be parted into {groups} groups")
    # explicit padding counts as part of the input here; what is missing beyond it is padded by the operation, the odd one at the end
    missing = max(0, (out - 1) * stride + kernel - side)
    return Kernel(
        op,
        (channels, side, side),
        (filters, out, out),
        (kernel, kernel),
        (stride, stride),
        (1, 1),
        (missing // 2, missing // 2, missing - missing // 2, missing - missing // 2),
        groups,
        fused,
        precision=PRECISION,
    )


def _fused(kernel_name: str) -> tuple[str, ...]:
    linked = [re.sub(r"_\d+$", "", name) for name in kernel_name.split(LINK)[1:]]
    for name in linked:
        if name not in FUSED_NAMES:
            raise ValueError(f"the kernel name {kernel_name!r} links {name!r}, which is not known")
    return tuple(FUSED_NAMES[name] for name in linked)


def _whole(shape: Mapping[str, Any], name: str) -> int:
    try:
        value = int(shape[name])
    except KeyError:
        raise ValueError(f"the features lack {name!r}") from None
    except (ValueError, TypeError):
        raise ValueError(f"{name} is {shape[name]!r}, but a whole number was expected") from None
    if value < 1:
        raise ValueError(f"{name} is {value}, but at least 1 was expected")
    return value


def _rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row); the line is that of a text file with one row a line."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}") from error
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path}, line 1: the columns {missing} are missing", "It has to be a table with a header.")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{path}, line {reader.line_num}: it has more or fewer cells than the header")
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error


def _said(error: Exception) -> str:
    return "the features are not a dictionary" if isinstance(error, SyntaxError) else str(error)
