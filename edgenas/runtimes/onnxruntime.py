"""ONNX Runtime on the CPU.

Fusion, as its optimised graphs show it (checked in tests/test_fuse.py): in FP32 a convolution in the blocked NCHWc layout takes a
following Add and Relu with it; in INT8 a convolution becomes QLinearConv with the activation folded into its quantizer, and an Add
becomes QLinearAdd with the Relu after it folded in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts.kernel import Precision
from edgenas.network.fuse import FusedKernel, FusionRules
from edgenas.network.graph import Network

if TYPE_CHECKING:
    import onnx

    from edgenas.onnxio.qdq import ActivationQuantization
    from edgenas.onnxio.write import Weights

NAME = "onnxruntime"
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
AGENT_PART = Path(__file__).with_name("onnxruntime_agent.py")

_FP32 = FusionRules(conv_add=True, activations_after={"Conv": ("Relu", "Clip"), "Add": ("Relu",), "Gemm": ("Relu",)})
_INT8 = FusionRules(
    conv_add=False, activations_after={"Conv": ("Relu", "Clip"), "Add": ("Relu", "Clip"), "Gemm": ("Relu", "Clip")}
)


def fusion(precision: Precision) -> FusionRules:
    return _FP32 if precision == "fp32" else _INT8


def fp32_model(network: Network, weights: Weights) -> onnx.ModelProto:
    from edgenas.onnxio.write import to_onnx

    return to_onnx(network, weights)


def int8_model(
    network: Network, weights: Weights, ranges: Mapping[str, ActivationQuantization], weight_bits: int
) -> onnx.ModelProto:
    from edgenas.onnxio.qdq import to_qdq

    return to_qdq(network, weights, ranges, weight_bits=weight_bits)


def attribute(nodes: Sequence[dict[str, Any]], kernels: tuple[FusedKernel, ...]) -> list[list[int] | None]:
    """A profiled node is called after one of the nodes that it fused, plus a suffix (`_nchwc`, `_token_4`).

    What bears no network node's name (layout reorders, the first quantizer) belongs to no kernel: the predictor's affine
    correction takes it in.
    """
    owner = {member: i for i, fused in enumerate(kernels) for member in fused.members}
    found: list[list[int] | None] = [None] * len(kernels)
    for node in nodes:
        base = _known_name(node["name"], owner)
        if base is None:
            continue
        so_far = found[owner[base]]
        found[owner[base]] = node["us"] if so_far is None else [a + b for a, b in zip(so_far, node["us"], strict=True)]
    return found


def _known_name(profiled: str, owner: Mapping[str, int]) -> str | None:
    """Suffixes are cut off at `_` or `.` from the right until a network node's name is left."""
    name = profiled
    while name and name not in owner:
        cut = max(name.rfind("_"), name.rfind("."))
        if cut < 0:
            return None
        name = name[:cut]
    return name or None
