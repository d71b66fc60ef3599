"""What `fuse` says a runtime fuses, against the runtime's own profile of whole networks."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgenas import device
from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.latency.profile import odd_widths
from edgenas.measure import Bench, reference_network
from edgenas.network.builder import INPUT, Builder
from edgenas.network.fuse import FusedKernel, fuse
from edgenas.network.graph import Network
from edgenas.network.readings import read as network_as_read
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.onnxio.read import read
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces import cell_stack
from edgenas.spaces.mobile import for_data
from edgenas.spaces.offer import Offer
from edgenas.targets.target import open_target
from tools.known_networks import light_models

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
    gates = for_data(64, 3, 10, Offer(("relu", "hard_swish"), squeeze_excite=True, depthwise_7x7=True))
    for space in (cell_stack.for_data(32, 3, 10), gates):
        found += [space.network(space.sample(rng)) for _ in range(4)]
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
        found.append(Profiled(nodes, fuse(network, bench.fusion(precision), precision)))
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
            # an INT8 ReLU of its own is done by the quantizer after it, whose range starts at 0
            by_quantizer = fused.kernel.op == "Relu" and fused.kernel.precision == "int8"
            alone = by_quantizer or fused.kernel.op in ("Flatten", *MOVES)
            in_pieces = fused.kernel.op == "HardSwish" and found == ["HardSigmoid", "Mul"]  # as INT8 files have it
            assert len(found) == 1 or in_pieces or (alone and not found), f"{fused.members}: {found}"


CALLED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "QuickGelu": "Swish", "Upsample": "Resize", "Flatten": "Reshape"}
SCALES = ("BatchNormalization", "Mul")  # of a blocked tensor: a convolution of one weight a channel to the runtime


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ONNX Runtime's blocked layout is that of x86")
@pytest.mark.parametrize("name", ["densenet121", "resnet50", "shufflenet", "squeezenet"])
def test_kernels_are_the_nodes_of_the_runtimes_own_optimised_graph(name: str, bench: Bench, tmp_path: Path) -> None:
    """Models that others wrote: with unfolded BatchNorm, sums, concatenations, channel shuffles, reorders between layouts."""
    path = light_models()[name]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    kernels = [fused.kernel for fused in fuse(read(path), bench.fusion("fp32"), "fp32")]
    assert Counter(map(_of_runtime, nodes)) == Counter(map(_of_kernel, kernels))


def _of_runtime(node: onnx.NodeProto) -> tuple[str, ...]:
    op = CALLED.get(node.op_type, node.op_type)
    added = ("Add",) if op == "Conv" and len(node.input) > 3 and node.input[3] else ()
    activation = [a.s.decode() for a in node.attribute if a.name == "activation"]
    return (op, *added, *activation)


def _of_kernel(kernel: Kernel) -> tuple[str, ...]:
    op = "Conv" if kernel.layout and kernel.op in SCALES else CALLED.get(kernel.op, kernel.op)
    return (op, *("Add" if fused == "Sum" else fused for fused in kernel.fused))


def test_what_reaches_no_output_and_what_is_fed_zeros_run_as_written(bench: Bench) -> None:
    """The host's canonical form: ONNX Runtime executes both, and a prediction counts both."""
    b = Builder((1, 8, 16, 16))
    zeros = b.node("zeros", "Mul", (INPUT,), (1, 8, 16, 16), (("constants", ((1,),)),))
    fed = b.conv("fed_zeros", zeros, 8, 3)
    b.conv("reaches_nothing", INPUT, 8, 3)
    network = b.finish(b.add("sum", b.conv("main", INPUT, 8, 3), fed))
    model = bench.runtime.fp32_model(network, random_weights(network))
    for tensor in model.graph.initializer:
        if tensor.name.startswith("zeros"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(1, np.float32), tensor.name))
    profiled = bench.profile_nodes(model, chunks=1, chunk=2).nodes
    kernels = fuse(network, bench.fusion("fp32"), "fp32")
    assert all(us is not None for us in bench.runtime.attribute(profiled, kernels))
    ran = {member for fused in kernels for member in fused.members}
    assert ran == {"zeros", "fed_zeros", "reaches_nothing", "main", "sum"}
    spec = device.load("host").runtime()
    assert network_as_read(network, spec.canonical_form) == network
