"""ONNX Runtime on the CPU.

Fusion, as its optimised graphs show it (checked in tests/test_fuse.py): in FP32 a convolution in the blocked NCHWc layout takes a
following Add and Relu with it; in INT8 a convolution becomes QLinearConv with the activation folded into its quantizer, and an Add
becomes QLinearAdd with the Relu after it folded in the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts.kernel import Precision
from edgenas.network.fuse import BlockedLayout, FusedKernel, FusionRules
from edgenas.network.graph import Network, Shape
from edgenas.runtimes import perf_test

if TYPE_CHECKING:
    import onnx

    from edgenas.onnxio.qdq import ActivationQuantization
    from edgenas.onnxio.write import Weights

NAME = "onnxruntime"
PROFILED_NODE_US = 3.0  # what profiling adds to a node: 2.4 to 3.4 us were measured
MOVES = ("ReorderInput", "ReorderOutput")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
INFER_BATCH = 1
OPENING_LIMIT_S = 60.0  # for loading a model on a slow board
AGENT_PART = Path(__file__).with_name("onnxruntime_agent.py")
AGENT_MODULES = (Path(__file__).with_name("onnxruntime_profile.py"),)
ANDROID_PART = Path(__file__).with_name("onnxruntime_android.py")

_CONV_ACTIVATIONS = ("Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu")
_GEMM_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSigmoid", "Selu", "Softplus", "Softsign")
_FLOAT = FusionRules(
    conv_add=("Add",),
    activations_after={"Conv": _CONV_ACTIVATIONS, "Gemm": _GEMM_ACTIVATIONS},
    activations_after_add=("Relu", "Clip", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu"),
)
_INT8 = FusionRules(
    conv_add=(), activations_after=dict.fromkeys(("Conv", "Add", "Gemm", "AveragePool"), ("Relu", "Clip"))
)
_BLOCKED_OPS = ("Relu", "Sigmoid", "Tanh", "BatchNormalization", "Swish")


def remedy(has_python: bool) -> str:
    if has_python:
        return "pip install onnxruntime there, or name the Python that has it: ssh://user@host?python=PATH."
    return perf_test.REMEDY


def caveat(version: str) -> str:
    return ""


def worth_searching(fast: Sequence[Precision]) -> tuple[Precision, ...]:
    """All: INT8 is slower than FP32 for some blocks."""
    return tuple(precision for precision in PRECISIONS if precision in fast)


def fusion(precision: Precision, isa: Collection[str]) -> FusionRules:
    """`isa` are the CPU's flags as Linux names them: on x86 convolutions run in channel blocks as wide as the vector registers
    (Source: ONNX Runtime's nchwc_transformer and graph transformers; checked against its optimised graphs in tests/test_fuse.py)."""
    if precision == "int8":
        return _INT8
    block = 16 if "avx512f" in isa else 8 if "avx2" in isa or "avx" in isa else 0
    if not block:
        return _FLOAT
    layout = BlockedLayout(
        block=block,
        conv_multiple=4,
        pools=("MaxPool", "AveragePool"),
        global_pools=("GlobalAveragePool", "GlobalMaxPool"),
        elementwise=_BLOCKED_OPS,
        conv_add=("Add", "Sum"),
        activations_after_add=("Relu", "Sigmoid", "Tanh", "HardSwish"),
    )
    return replace(_FLOAT, layout=layout)


def fp32_model(network: Network, weights: Weights) -> onnx.ModelProto:
    from edgenas.onnxio.write import to_onnx

    return to_onnx(network, weights)


def int8_model(
    network: Network, weights: Weights, ranges: Mapping[str, ActivationQuantization], weight_bits: int
) -> onnx.ModelProto:
    from edgenas.onnxio.qdq import to_qdq

    return to_qdq(network, weights, ranges, weight_bits=weight_bits)


def calibration_cache(network: Network, ranges: Mapping[str, ActivationQuantization], version: str) -> str | None:
    return None


def attribute(nodes: Sequence[dict[str, Any]], kernels: tuple[FusedKernel, ...]) -> list[list[float] | None]:
    """A profiled node is called after one of the nodes that it fused, plus a suffix (`_nchwc`, `_token_4`).

    Layout reorders have names of their own and are told by the shape that they move; equal ones share their time. What belongs to
    no kernel (the first quantizer) is left to the predictor's affine correction. So is what profiling adds to a kernel; of a kernel of
    several nodes (an activation without an INT8 form) only the first one keeps it.
    """
    owner = {member: i for i, fused in enumerate(kernels) for member in fused.members}
    found: list[list[float] | None] = [None] * len(kernels)
    moves: dict[tuple[str, Shape], list[int]] = {}
    for i, fused in enumerate(kernels):
        if fused.kernel.op in MOVES:
            moved = fused.kernel.out_shape if fused.kernel.op == "ReorderOutput" else fused.kernel.in_shape
            moves.setdefault((fused.kernel.op, moved), []).append(i)
    for node in nodes:
        if node["op"] in MOVES:
            plain = node["shapes"][node["op"] == "ReorderOutput"]
            for place in (same := moves.get((node["op"], tuple(plain[1:])), [])):
                share = [us / len(same) for us in node["us"]]
                before = found[place]
                found[place] = share if before is None else [a + b for a, b in zip(before, share, strict=True)]
            continue
        base = _known_name(node["name"], owner)
        if base is None:
            continue
        so_far = found[owner[base]]
        further = [max(0.0, us - PROFILED_NODE_US) for us in node["us"]]
        found[owner[base]] = node["us"] if so_far is None else [a + b for a, b in zip(so_far, further, strict=True)]
    return found


def _known_name(profiled: str, owner: Mapping[str, int]) -> str | None:
    """Suffixes are cut off at `_`, `.` or `/` from the right until a network node's name is left."""
    name = profiled.removeprefix("fused ")
    while name and name not in owner:
        cut = max(name.rfind(mark) for mark in "_./")
        if cut < 0:
            return None
        name = name[:cut]
    return name or None
