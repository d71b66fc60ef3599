"""The raw record of profiling: one JSON line per network, in all its precisions, appended as it is measured, read back on resume."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.artifacts.measurement import Measurement
from edgenas.errors import InputError
from edgenas.stats import quiet_chunks


@dataclass(frozen=True)
class ProfiledNetwork:
    """`kernel_us[i]` holds the durations of `kernels[i]` inside the whole network, or None if the runtime showed no such node;
    before every `chunk` of them the reference model ran as often; `whole` is the network timed without profiling. With `error` set
    both are empty."""

    name: str
    precision: Precision
    kernels: tuple[Kernel, ...]
    kernel_us: tuple[tuple[float, ...] | None, ...]
    reference_cpu_ns: tuple[int, ...]
    chunk: int
    whole: Measurement | None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "precision": self.precision,
            "kernels": [kernel.to_row() for kernel in self.kernels],
            "kernel_us": self.kernel_us,
            "reference_cpu_ns": self.reference_cpu_ns,
            "chunk": self.chunk,
            "whole": self.whole.to_json() if self.whole else None,
            "error": self.error,
        }

    def kernel_ms(self, quiet_reference_ms: float) -> list[float | None]:
        """Per kernel the mean over the runs that were taken on a quiet machine, or over the fastest quarter where none was.
        (Runtimes report whole microseconds: a mean of many says more than a percentile.)"""
        seen = np.array([us for us in self.kernel_us if us is not None], float)
        if not len(seen):
            return [None] * len(self.kernel_us)
        kept = np.repeat(quiet_chunks(self.reference_cpu_ns, self.chunk, quiet_reference_ms * 1e6), self.chunk)
        if not kept.any():
            kept = np.argsort(np.argsort(seen.sum(axis=0), kind="stable")) < max(1, seen.shape[1] // 4)
        # within the quiet runs too the odd one is interrupted
        order = np.argsort(np.where(kept, seen.sum(axis=0), np.inf), kind="stable")[: max(1, int(kept.sum() * 0.75))]
        means = iter(seen[:, order].mean(axis=1) / 1e3)
        return [None if us is None else float(next(means)) for us in self.kernel_us]

    @staticmethod
    def from_json(data: dict[str, Any]) -> ProfiledNetwork:
        return ProfiledNetwork(
            data["name"],
            data["precision"],
            tuple(Kernel.from_row(row) for row in data["kernels"]),
            tuple(tuple(us) if us is not None else None for us in data["kernel_us"]),
            tuple(data["reference_cpu_ns"]),
            data["chunk"],
            Measurement.from_json(data["whole"]) if data["whole"] else None,
            data["error"],
        )


def append(path: Path, records: Sequence[ProfiledNetwork]) -> None:
    """The records of one network as one line: they are all there, or the file ends in a piece of a line that `read` drops."""
    text = json.dumps([record.to_json() for record in records]) + "\n"
    with path.open("a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[ProfiledNetwork]:
    """What was recorded so far. A last line cut short by a killed process is removed from the file.

    Raises InputError naming any other line that can't be read.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    found = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            found += [ProfiledNetwork.from_json(entry) for entry in json.loads(line)]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}, is not a profiling record: {error}", "Remove the file."
            ) from error
    return found
