"""What every stage of a build needs, opened once and closed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edgenas import data, device
from edgenas.artifacts.device_spec import DeviceSpec
from edgenas.data import Dataset
from edgenas.errors import InputError
from edgenas.measure import Bench
from edgenas.pipeline.request import EFFORTS, BuildRequest, Effort
from edgenas.progress import Progress
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces.mobile import MobileSpace, for_data
from edgenas.store import Store
from edgenas.targets.target import open_target


@dataclass(frozen=True)
class Machine:
    """The device as it is: its description with everything detected, and what the agent's probe said."""

    spec: DeviceSpec
    probe: dict[str, Any]
    bench: Bench

    @property
    def key(self) -> dict[str, Any]:
        """What a measurement depends on: measured anywhere else, it says nothing here."""
        runtime = self.bench.runtime.NAME
        return {
            "device": self.spec.id,
            "cpu": self.probe["cpu_name"],
            "isa": sorted(self.probe["isa"]),
            "runtime": [runtime, self.spec.runtime(runtime).version],
            "threads": self.bench.threads,
            "weight_bits": self.weight_bits,
        }

    @property
    def weight_bits(self) -> int:
        return self.spec.weight_bits(self.bench.runtime.NAME)


@dataclass(frozen=True)
class Build:
    request: BuildRequest
    effort: Effort
    dataset: Dataset
    space: MobileSpace
    machine: Machine
    store: Store
    progress: Progress


@contextmanager
def opened_machine(device_id: str, target: str | None, threads: int | None) -> Iterator[Machine]:
    """Raises InputError for an unknown device, or one that there is no target to measure on."""
    spec = device.load(device_id)
    address = target or spec.target
    if address is None:
        raise InputError(
            f"device {device_id!r} is not this machine, and there is no --target to measure it on",
            "This version measures on --target local only: use --device host.",
        )
    place = open_target(address)
    try:
        bench = Bench(place, load_runtime(spec.default_runtime), threads or spec.threads)
        probe = bench.probe()
        yield Machine(device.resolve(spec, probe), probe, bench)
    finally:
        place.close()


def load_dataset(spec: str | None, effort: Effort, seed: int, progress: Progress) -> Dataset:
    with progress.stage("data", "Reading images", cached=False):
        dataset = data.load(
            spec,
            sample_dir=device.shipped("datasets") / "fashion-mnist-sample",
            seed=seed,
            max_resolution_px=effort.max_resolution_px,
            use_progress=lambda done, total: progress.update(done, total),
        )
    for warning in dataset.warnings:
        progress.warn(warning)
    return dataset


def space_for(dataset: Dataset) -> MobileSpace:
    return for_data(dataset.resolution_px, dataset.channels, len(dataset.labels))


@contextmanager
def opened_build(request: BuildRequest, progress: Progress, effort: Effort | None = None) -> Iterator[Build]:
    """`effort` other than the one that the request names is for tests."""
    effort = effort or EFFORTS[request.effort]
    # a device that is refused is, before images are read
    with opened_machine(request.device, request.target, request.threads) as machine:
        dataset = load_dataset(request.data, effort, request.seed, progress)
        store = Store(request.out)  # last: data that is refused leaves no folder behind
        try:
            yield Build(request, effort, dataset, space_for(dataset), machine, store, progress)
        finally:
            store.close()
