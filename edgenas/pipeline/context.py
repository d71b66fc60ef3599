"""What every stage of a build needs, opened once and closed at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgenas import data, device
from edgenas.artifacts.device_spec import DETECTED, DeviceSpec
from edgenas.artifacts.kernel import Precision
from edgenas.data import Dataset
from edgenas.errors import InputError, TargetError
from edgenas.executors.executor import Executor, opened_executor
from edgenas.latency.stored import stored
from edgenas.measure import Bench
from edgenas.pipeline.own_model import own_model, refuse_contradiction
from edgenas.pipeline.request import EFFORTS, BuildRequest, Effort, OtherDevice, from_trained
from edgenas.progress import Progress
from edgenas.runtimes.runtime import Runtime, load_runtime
from edgenas.spaces.offer import Device, offer_of
from edgenas.spaces.space import SearchSpace
from edgenas.spaces.trainable import DEFAULT, OF_A_MODEL, refuse_unknown, space_for
from edgenas.store import Store
from edgenas.targets.target import Target, link_of, open_target

if TYPE_CHECKING:
    from edgenas.supernet.given_model import GivenModel
    from edgenas.supernet.launch import Teams

JUDGE = "onnxruntime"
SCHEMA = 1  # of the JSON files that a build writes


@dataclass(frozen=True)
class Machine:
    """The device as it is: its description with everything detected, and what the agent's probe said; `reached` is None when there
    is no target, and then nothing is measured. `judge` runs exported files where their accuracy can be found out: on the device if
    ONNX Runtime there can be given images, else on the host."""

    spec: DeviceSpec
    runtime: Runtime
    threads: int
    probe: dict[str, Any]
    reached: Bench | None
    judge: Bench

    @property
    def bench(self) -> Bench:
        if self.reached is None:
            raise TargetError(f"{self.spec.id} can't be measured: there is no target")
        return self.reached

    @property
    def can_infer(self) -> bool:
        return self.reached is not None and self.reached.can_infer

    @property
    def version(self) -> str:
        """The runtime's; empty where it is not known."""
        version = self.spec.runtime(self.runtime.NAME).version
        return "" if version == DETECTED else version

    @property
    def precisions(self) -> list[Precision]:
        """Those worth searching: fast on the device, and worth it in this runtime."""
        return list(self.runtime.worth_searching(self.spec.fast_precisions(self.runtime.NAME)))

    @property
    def key(self) -> dict[str, Any]:
        """What a measurement depends on: measured anywhere else, it says nothing here."""
        return {
            "device": self.spec.id,
            "cpu": self.probe.get("cpu_name"),
            "isa": sorted(self.probe.get("isa", ())),
            "runtime": [self.runtime.NAME, self.version, self.spec.runtime(self.runtime.NAME).provider],
            "threads": self.threads,
            "weight_bits": self.weight_bits,
        } | ({} if self.reached else {"reached": False})

    @property
    def weight_bits(self) -> int:
        return self.spec.weight_bits(self.runtime.NAME)

    @property
    def narrowest(self) -> Precision:
        """Of what may be shipped to it."""
        return (self.precisions if self.reached else self.known())[-1]

    def known(self) -> list[Precision]:
        """Those of `precisions` that a table or a calibration is there for."""
        there = {each.name for each in stored(self.spec.id)}
        return [p for p in self.precisions if f"{self.runtime.NAME}-{p}-t{self.threads}" in there]


@dataclass(frozen=True)
class Build:
    """`given`: the user's own model, where the space is made of one; the supernet then starts from it, and it is the teacher.
    `other_machines` are those of the request's `others`, in the same order."""

    request: BuildRequest
    effort: Effort
    dataset: Dataset
    space: SearchSpace
    machine: Machine
    store: Store
    progress: Progress
    teams: Teams
    executor: Executor
    given: GivenModel | None = None
    other_machines: tuple[Machine, ...] = ()

    @property
    def space_name(self) -> str:
        """As `--space` takes it."""
        return OF_A_MODEL if self.given else self.request.space or DEFAULT

    def heading(self) -> dict[str, Any]:
        """What result.json and front.json begin with."""
        machine = self.machine
        return {
            "schema": SCHEMA,
            "device": self.request.device,
            "target": machine.reached.target.name if machine.reached else None,
            "runtime": machine.runtime.NAME,
            "runtime_version": machine.version or None,
            "threads": machine.threads,
            "seed": self.request.seed,
            "strategy": self.request.strategy,
        }

    @property
    def on_others(self) -> tuple[Build, ...]:
        """The same build as each of the other devices sees it: as the device that is built for, with a folder of its own for what is
        shipped to it."""
        ours = OtherDevice(self.request.device, self.request.latency_ms, self.request.target)
        found = []
        for i, (asked, machine) in enumerate(zip(self.request.others, self.other_machines, strict=True)):
            others, machines = list(self.request.others), list(self.other_machines)
            others[i], machines[i] = ours, self.machine
            request = replace(
                self.request,
                device=asked.device,
                target=asked.target,
                latency_ms=asked.latency_ms,
                out=self.request.out / "devices" / asked.device,
                others=tuple(others),
            )
            found.append(replace(self, request=request, machine=machine, other_machines=tuple(machines)))
        return tuple(found)


@contextmanager
def opened_machine(
    device_id: str, target: str | None, threads: int | None, runtime: str | None = None, *, may_be_away: bool = False
) -> Iterator[Machine]:
    """Raises InputError for an unknown device or runtime, for one that can only be predicted for, and for one that there is no
    target to measure on unless it `may_be_away`."""
    spec = device.load(device_id)
    spec.refuse_if_predict_only()
    address = target or spec.target
    name = runtime or spec.default_runtime
    spec.runtime(name)
    chosen, count = load_runtime(name), threads or spec.threads
    with ExitStack() as places:
        if address is not None:
            place = _opened(places, address)
            bench = Bench(place, chosen, count, provider=spec.runtime(name).provider)
            probe = bench.probe()
            judge = bench if name == JUDGE and bench.can_infer else Bench(_opened(places, "local"), load_runtime(JUDGE))
            yield Machine(
                device.resolve(spec, probe, name, chosen.remedy(place.has_python)), chosen, count, probe, bench, judge
            )
        elif may_be_away:
            _refuse_if_unknown(spec, name)
            yield Machine(spec, chosen, count, {}, None, Bench(_opened(places, "local"), load_runtime(JUDGE)))
        else:
            raise _no_target(device_id)


def address_of(device_id: str, target: str | None) -> str:
    """Where a device is that has to be measured. Raises InputError for one that can't be."""
    spec = device.load(device_id)
    spec.refuse_if_predict_only()
    address = target or spec.target
    if address is None:
        raise _no_target(device_id)
    link_of(address)
    return address


def _no_target(device_id: str) -> InputError:
    return InputError(
        f"device {device_id!r} is not this machine, and there is no --target to measure it on",
        "Name it: --target ssh://user@host or adb:SERIAL (or --device host for this machine).",
    )


def _refuse_if_unknown(spec: DeviceSpec, runtime: str) -> None:
    """What decides the files has to be known beforehand. ONNX Runtime's version doesn't: all of them take what is written."""
    about = f"runtimes.{runtime}."
    unknown = [field.removeprefix(about) for field in spec.detected_fields if field.startswith(about)]
    if needed := [field for field in unknown if field != "version" or runtime != JUDGE]:
        raise InputError(
            f"{runtime}'s {' and '.join(needed)} on device {spec.id!r} has to be detected there, and there is no --target",
            f"Name it: --target ssh://user@host or adb:SERIAL. Or write it into a file of your own (edgenas devices --new {spec.id}), "
            f"and say how long networks take there (edgenas calibrate --device {spec.id}).",
        )


def _opened(places: ExitStack, address: str) -> Target:
    place = open_target(address)
    places.callback(place.close)
    return place


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


def space_of(name: str, dataset: Dataset, machines: Sequence[Machine]) -> SearchSpace:
    """Of what all the machines run and do well."""
    offer = offer_of([Device(m.spec.rules, "int8" in m.precisions, m.reached is not None) for m in machines])
    return space_for(name, dataset.resolution_px, dataset.channels, len(dataset.labels), offer)


@contextmanager
def opened_build(request: BuildRequest, progress: Progress, effort: Effort | None = None) -> Iterator[Build]:
    """`effort` other than the one that the request names is for tests."""
    effort = effort or EFFORTS[request.effort]
    with ExitStack() as machines, opened_executor(request.executor, request.task_threads) as executor:
        # what is refused whatever the images are is, before they are read
        refuse_contradiction(request.model, request.space)
        if request.model is None:
            refuse_unknown(request.space or DEFAULT)
        machine = machines.enter_context(
            _known_machine(request.device, request.target, request.threads, request.runtime)
        )
        others = [machines.enter_context(_known_machine(each.device, each.target)) for each in request.others]
        dataset = load_dataset(request.data, effort, request.seed, progress)
        given = own_model(request.model, dataset, progress)
        space: SearchSpace
        if given is not None:
            dataset, space, effort = given.dataset, given.space, from_trained(effort)
        else:
            space = space_of(request.space or DEFAULT, dataset, [machine, *others])
        from edgenas.supernet.launch import opened_teams

        store = Store(request.out)  # last: data that is refused leaves no folder behind
        try:
            with opened_teams(request.nproc) as teams:
                yield Build(
                    request, effort, dataset, space, machine, store, progress, teams, executor, given, tuple(others)
                )
        finally:
            store.close()


@contextmanager
def _known_machine(
    device_id: str, target: str | None, threads: int | None = None, runtime: str | None = None
) -> Iterator[Machine]:
    with opened_machine(device_id, target, threads, runtime, may_be_away=True) as machine:
        if machine.reached is None and not machine.known():
            name = machine.runtime.NAME
            raise InputError(
                f"nothing is known of the latencies of device {device_id!r} in {name}, and there is no --target to measure on",
                "Name one (--target ssh://user@host or adb:SERIAL), or time whole networks there: "
                f"edgenas calibrate --device {device_id}.",
            )
        yield machine
