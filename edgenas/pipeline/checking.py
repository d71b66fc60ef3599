"""Preflight: what would stop this build's files on the device, found in seconds, before anything is searched or trained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgenas.artifacts.finding import Finding
from edgenas.artifacts.kernel import BYTES_PER_VALUE, Precision
from edgenas.errors import InputError
from edgenas.measure import untrained
from edgenas.network import costs
from edgenas.network.graph import Network
from edgenas.pipeline.context import Build
from edgenas.preflight import check_memory, check_model, check_storage

SAMPLES = 4
FILES_ON_DEVICE = 16  # that a measurement keeps there at a time, at most


def preflight(build: Build) -> list[str]:
    """The warnings, one line each. Raises InputError for the first thing that can't work. Judged on the extremes of the space and a few
    of its networks, in every precision that is worth searching."""
    machine, space = build.machine, build.space
    with build.progress.stage("preflight", "Checking what the device takes", cached=False):
        rng = np.random.default_rng(build.request.seed)
        subnets = [space.largest(), *space.smallest(), *(space.sample(rng) for _ in range(SAMPLES))]
        networks = [space.network(subnet) for subnet in subnets]
        found = [
            finding for network in networks for p in machine.precisions for finding in _of_model(build, network, p)
        ]
        found += _of_device(build, networks[0])
    errors = [finding for finding in dict.fromkeys(found) if finding.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InputError(
            f"{build.request.device} can't run what would be built: {errors[0].what}{more}", errors[0].remedy
        )
    warnings = [f"{finding.what}. {finding.remedy}" for finding in dict.fromkeys(found)]
    for text in warnings:
        build.progress.warn(text)
    return warnings


def _of_model(build: Build, network: Network, precision: Precision) -> list[Finding]:
    machine = build.machine
    model = untrained(machine.runtime, network, precision, machine.weight_bits)
    spec = machine.spec.runtime(machine.runtime.NAME)
    return check_model(model, spec, machine.runtime.NAME, machine.version, precision)


def _of_device(build: Build, largest: Network) -> Iterator[Finding]:
    widest = max(BYTES_PER_VALUE[p] for p in build.machine.precisions)
    weights_mib = costs.params(largest) * widest / 2**20
    ram_mib = build.machine.spec.ram_mib
    if isinstance(ram_mib, int):
        yield from check_memory(costs.activation_peak_bytes(largest, widest) / 2**20, weights_mib, ram_mib)
    if (free_mib := build.machine.probe.get("disk_free_mib")) is not None:
        yield from check_storage(int(FILES_ON_DEVICE * weights_mib * 2**20), free_mib * 2**20)
