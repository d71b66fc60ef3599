"""ONNX Runtime's part for Android devices: what onnxruntime_agent.py is elsewhere. The agent runs on the host, and models run on the
device in `onnxruntime_perf_test`, a process for every chunk.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
import statistics
from typing import Any, NoReturn

import place  # type: ignore[import-not-found]  # sent along

from edgenas.errors import TargetError
from edgenas.runtimes import perf_test
from edgenas.runtimes.onnxruntime_profile import per_node

PROGRAM = "onnxruntime_perf_test"
LEAST_CHUNK = 20  # each is a process
WARM_UP_NS = 100_000_000  # at the start of each: a phone raises its clock in tens of milliseconds
LEAST_DROPPED, MOST_DROPPED = 2, 1000
DROPPED_IN_PROFILE = 5  # or the file would grow to many MB
RUN_LIMIT_S = 600.0
# libonnxruntime.so calls the version of its symbols so, and what links to it names it as well
SYMBOLS = r"VERS_[0-9]*\.[0-9]*\.[0-9]*"


def versions() -> dict[str, str]:
    """Empty where there is no perf_test. A program with ONNX Runtime linked into it doesn't tell its version."""
    program = place.VIA.program(PROGRAM)
    if program is None:
        return {}
    library = posixpath.join(posixpath.dirname(program), "libonnxruntime.so")
    said = place.run(["grep", "-aohs", SYMBOLS, program, library], 60.0)[1]
    found = re.search(r"VERS_(\d+\.\d+\.\d+)", said)
    return {"onnxruntime": found[1] if found else "unknown"}


def open_model(path: str, options: dict[str, Any]) -> Model:
    return Model(path, options)


def open_profile(path: str, options: dict[str, Any]) -> tuple[Profile, Any]:
    profile = Profile(path, options)
    return profile, profile.finish


def infer(path: str, inputs: str, outputs: str, options: dict[str, Any]) -> NoReturn:
    raise RuntimeError(f"{PROGRAM} can't be given inputs: what a model computes is found out on the host")


class Model:
    """Opening it runs it for the first time, which tells how many runs warm the device up."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        program = place.VIA.program(PROGRAM)
        if program is None:
            raise TargetError(f"there is no {PROGRAM} on the device", perf_test.REMEDY)
        self.program, self.path, self.options = program, path, options
        self.result = posixpath.join(posixpath.dirname(path), "perf_test.csv")
        self.peak_rss_mib: float | None = None
        typical_ns = statistics.median(self.run(LEAST_CHUNK))
        self.dropped = min(max(LEAST_DROPPED, math.ceil(WARM_UP_NS / max(typical_ns, 1))), MOST_DROPPED)

    def chunk(self, count: int) -> tuple[list[int], list[int]]:
        """(wall ns, busy ns) of `count` runs; of one run it only tells the wall time."""
        samples = self.run(count + self.dropped)[-count:]
        return samples, list(samples)

    def run(self, repeats: int, profile_prefix: str | None = None) -> list[int]:
        """Nanoseconds of each run. Raises RuntimeError with the reason if it fails."""
        command = perf_test.command(
            self.program,
            self.path,
            self.result,
            threads=self.options["threads"],
            repeats=repeats,
            profile_prefix=profile_prefix,
            provider=self.options.get("provider", "cpu"),
        )
        libraries = "LD_LIBRARY_PATH=" + posixpath.dirname(
            self.program
        )  # Android's linker doesn't look beside the program
        code, out, error = place.VIA.run_alone(["env", libraries, *command], self.result, RUN_LIMIT_S)
        if code is None:
            raise RuntimeError(error)
        said = out + "\n" + error
        if code != 0:
            raise RuntimeError(perf_test.problem(said))
        try:
            samples = perf_test.parse_result_file(place.read(self.result) or "")
            self.peak_rss_mib = perf_test.parse_output(said).peak_rss_mib
        except TargetError as wrong:
            raise RuntimeError(f"{wrong.message}; it said: {perf_test.problem(said)}") from None
        if len(samples) != repeats:
            raise RuntimeError(f"{PROGRAM} gave the times of {len(samples)} runs where {repeats} were asked for")
        return samples

    def close(self) -> None:
        pass


class Profile(Model):
    def __init__(self, path: str, options: dict[str, Any]) -> None:
        super().__init__(path, options)
        self.dropped = DROPPED_IN_PROFILE
        self.nodes: list[dict[str, Any]] = []

    def chunk(self, count: int) -> tuple[list[int], list[int]]:
        folder, prefix = posixpath.dirname(self.path), "perf_test_profile"
        samples = self.run(count + self.dropped, posixpath.join(folder, prefix))[-count:]
        written = [posixpath.join(folder, name) for name in place.names(folder) if name.startswith(prefix)]
        if not written:
            raise RuntimeError(f"{PROGRAM} wrote no profile")
        nodes = per_node(json.loads(place.VIA.pull(written[-1])), count)  # the name ends in the time
        place.run(["rm", "-f", *written])
        if self.nodes and [node["name"] for node in nodes] != [node["name"] for node in self.nodes]:
            raise RuntimeError(f"{PROGRAM} profiled other nodes than before")
        for kept, node in zip(self.nodes, nodes, strict=False):
            kept["us"] += node["us"]
        self.nodes = self.nodes or nodes
        return samples, list(samples)

    def finish(self, chunks: int, chunk: int) -> list[dict[str, Any]]:
        return self.nodes
