"""What `fuse` says a runtime fuses, against the runtime's own profile of whole networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from edgenas.artifacts.kernel import Precision
from edgenas.latency.profile import odd_widths
from edgenas.measure import Bench, reference_network
from edgenas.network.fuse import FusedKernel, fuse
from edgenas.network.graph import Network
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces.mobile import for_data
from edgenas.targets.target import open_target

MOVES = {"ReorderInput", "ReorderOutput", "Transpose", "QuantizeLinear", "DequantizeLinear"}
CHUNKS, CHUNK = 2, 3


@dataclass(frozen=True)
class Profiled:
    nodes: tuple[dict[str, Any], ...]
    kernels: tuple[FusedKernel, ...]


def networks() -> list[Network]:
    """Samples of each space, and two of each with odd widths."""
    rng = np.random.default_rng(5)
    found = [reference_network()]
    for side, channels in ((28, 1), (32, 3), (96, 3)):
        space = for_data(side, channels, 10)
        found += [space.network(space.sample(rng)) for _ in range(4)]
        found += [odd_widths(network, rng) for network in found[-2:]]
    return found


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    target = open_target("local")
    yield Bench(target, load_runtime("onnxruntime"))
    target.close()


@pytest.fixture(scope="module", params=["fp32", "int8"])
def profiled(request: pytest.FixtureRequest, bench: Bench) -> list[Profiled]:
    precision: Precision = request.param
    found = []
    for seed, network in enumerate(networks()):
        weights = random_weights(network, seed)
        model = (
            bench.runtime.fp32_model(network, weights)
            if precision == "fp32"
            else bench.runtime.int8_model(network, weights, random_ranges(network, seed), 7)
        )
        nodes = bench.profile_nodes(model, chunks=CHUNKS, chunk=CHUNK).nodes
        found.append(Profiled(nodes, fuse(network, bench.runtime.fusion(precision), precision)))
    return found


def test_every_kernel_is_timed_in_every_run(bench: Bench, profiled: list[Profiled]) -> None:
    for each in profiled:
        for fused, us in zip(each.kernels, bench.runtime.attribute(each.nodes, each.kernels), strict=True):
            assert us is not None, f"the profile shows no node of {fused.members}"
            assert len(us) == CHUNKS * CHUNK
            assert min(us) >= 0


def test_what_belongs_to_no_kernel_only_moves_data(bench: Bench, profiled: list[Profiled]) -> None:
    for each in profiled:
        for node in each.nodes:
            if all(us is None for us in bench.runtime.attribute([node], each.kernels)):
                assert node["op"] in MOVES, node["name"]


def test_a_kernel_is_one_operation_of_the_runtime(bench: Bench, profiled: list[Profiled]) -> None:
    """Were something fused that the runtime runs apart, the kernel would hold two; what a kernel holds besides moves data."""
    for each in profiled:
        operations: list[list[str]] = [[] for _ in each.kernels]
        for node in each.nodes:
            owners = [i for i, us in enumerate(bench.runtime.attribute([node], each.kernels)) if us is not None]
            if owners and node["op"] not in MOVES:
                operations[owners[0]].append(node["op"])
        for fused, found in zip(each.kernels, operations, strict=True):
            assert len(found) == 1 or (fused.kernel.op == "Flatten" and not found), f"{fused.members}: {found}"
