"""TensorRT on an NVIDIA GPU, driven through trtexec on the device.

Fusion, as its layer names show it: a convolution takes a following sum and activation with it ("Conv_5 + Add_6 + Relu_7"), and
pointwise operations run as one ("PWN(Sigmoid_3, Mul_4)").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts.kernel import Precision
from edgenas.network.fuse import FusedKernel, FusionRules
from edgenas.network.graph import Network
from edgenas.runtimes import trtexec

if TYPE_CHECKING:
    import onnx

    from edgenas.onnxio.qdq import ActivationQuantization
    from edgenas.onnxio.write import Weights

NAME = "tensorrt"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
AGENT_PART = Path(__file__).with_name("tensorrt_agent.py")
AGENT_MODULES = (Path(__file__).with_name("trtexec.py"),)
ANDROID_PART = None
NEWEST_WITH_IMPLICIT_INT8 = 10
INFER_BATCH = 256
OPENING_LIMIT_S = 3600.0  # an engine takes minutes on a small board

_POINTWISE = ("Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid",
              "HardSwish", "Swish")  # fmt: skip
_FUSION = FusionRules(
    conv_add=("Add", "Sum"),
    activations_after={
        "Conv": ("Relu", "Clip"),
        "ConvTranspose": ("Relu", "Clip"),
        "BatchNormalization": _POINTWISE,
        **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _POINTWISE),
    },
    activations_after_add=("Relu", "Clip"),
)
_REFORMAT = re.compile(r"^Reformatting CopyNode for (?:Network )?(?:Input|Output) (?:Tensor \d+ (?:to|from) )?")


def remedy(has_python: bool) -> str:
    return "trtexec is sought on the PATH and in /usr/src/tensorrt/bin; JetPack's package tensorrt brings it, for NVIDIA GPUs."


def caveat(version: str) -> str:
    numbers = tuple(int(part) for part in version.split(".")[:2])
    unseen = [what for what in ("console", "times", "profile") if numbers not in trtexec.VERIFIED[what]]
    if not unseen:
        return ""
    return (
        f"how trtexec {version} writes its {' and '.join(unseen)} is known from its source, not from a published output: "
        "compare the first figures with what it prints itself"
    )


def worth_searching(fast: Sequence[Precision]) -> tuple[Precision, ...]:
    """Not FP32 where FP16 is fast: an FP16 engine takes FP32 kernels wherever they are the faster ones."""
    found = tuple(precision for precision in PRECISIONS if precision in fast)
    return tuple(precision for precision in found if precision != "fp32" or "fp16" not in found)


def fusion(precision: Precision, isa: Collection[str]) -> FusionRules:
    """The same in every precision; `isa`, the CPU's flags, says nothing of a GPU.

    Source: NVIDIA, "Layer Fusion Catalog" (convolution with ReLU, Clip or a sum; scale with an activation; pointwise chains),
    https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/fusion-catalog.html. Not yet held against an engine.
    """
    return _FUSION


def fp32_model(network: Network, weights: Weights) -> onnx.ModelProto:
    from edgenas.onnxio.write import to_onnx

    return to_onnx(network, weights)


def int8_model(
    network: Network, weights: Weights, ranges: Mapping[str, ActivationQuantization], weight_bits: int
) -> onnx.ModelProto:
    from edgenas.onnxio.qdq import to_qdq

    return to_qdq(network, weights, ranges, weight_bits=weight_bits, flavour="trt")


def calibration_cache(network: Network, ranges: Mapping[str, ActivationQuantization], version: str) -> str | None:
    """TensorRT 10 and older take one for implicit INT8."""
    from edgenas.runtimes.calibration_cache import cache_text, scales

    if int(version.partition(".")[0]) > NEWEST_WITH_IMPLICIT_INT8:
        return None
    return cache_text(scales({name: ranges[name] for name in ranges if name in _tensors(network)}), version)


def _tensors(network: Network) -> set[str]:
    return {network.input_name, *network.by_name}


def attribute(nodes: Sequence[dict[str, Any]], kernels: tuple[FusedKernel, ...]) -> list[list[float] | None]:
    """A layer is called after the nodes that it runs, joined with ` + `, ` || ` or commas, inside `PWN(...)` or
    `{ForeignNode[first...last]}`.

    Its time goes to the kernels that own those nodes, shared in proportion to their MACs; one without MACs that ran together with one
    that has them cost nothing there and gets zeros, and if none has any they share it equally. A foreign node ran everything from its
    first to its last node, in the order of the kernels. A reformat belongs to the layer that it names, which it feeds or follows, and
    one that names none (the network's input) to the next that does. What else names no node (`[trainStation1]`) is left to the
    predictor's affine correction.
    """
    owner = {member: i for i, fused in enumerate(kernels) for member in fused.members}
    found: list[list[float] | None] = [None] * len(kernels)
    named = [_owners(node["name"], owner) for node in nodes]
    for at, node in enumerate(nodes):
        owners = named[at]
        if not owners and _REFORMAT.match(node["name"]):
            owners = next(filter(None, named[at + 1 :]), [])
        for place, part in _shares(owners, kernels).items():
            share = [us * part for us in node["us"]]
            before = found[place]
            found[place] = share if before is None else [a + b for a, b in zip(before, share, strict=True)]
    return found


def _shares(owners: Sequence[int], kernels: Sequence[FusedKernel]) -> dict[int, float]:
    macs = {place: kernels[place].kernel.macs for place in owners}
    total = sum(macs.values())
    return {place: macs[place] / total if total else 1 / len(owners) for place in owners}


def _owners(layer: str, owner: Mapping[str, int]) -> list[int]:
    """The kernels of the nodes that a layer names, each once."""
    layer = _REFORMAT.sub("", layer)
    foreign = re.fullmatch(r"\{ForeignNode\[(.+?)\.\.\.(.+)\]\}.*", layer)
    if foreign:
        ends = [place for end in foreign.groups() for place in _owners(end, owner)]
        return list(range(min(ends), max(ends) + 1)) if ends else []
    return list(dict.fromkeys(owner[name] for name in _names(layer, owner)))


def _names(layer: str, owner: Mapping[str, int]) -> Iterable[str]:
    """Parts of a layer's name that are nodes. A node's own name may hold any of the marks, so the whole is tried first."""
    if layer.strip() in owner:
        yield layer.strip()
        return
    for mark in (" + ", " || ", ", ", ","):
        parts = _split(layer, mark)
        if len(parts) > 1:
            for part in parts:
                yield from _names(part, owner)
            return
    wrapped = re.fullmatch(r"\s*(?:PWN|fusedPointwiseNode)?\((.*)\)\s*", layer)
    if wrapped:
        yield from _names(wrapped.group(1), owner)
    elif (known := _known(layer, owner)) is not None:
        yield known


def _split(text: str, mark: str) -> list[str]:
    """At marks that stand in no brackets."""
    parts, depth, start = [], 0, 0
    for at, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and at >= start and text.startswith(mark, at):
            parts.append(text[start:at])
            start = at + len(mark)
    return [*parts, text[start:]]


def _known(name: str, owner: Mapping[str, int]) -> str | None:
    """The node that a name starts with: behind it come suffixes of tensors, weights and quantizers (`_output_0`, `.weight`)."""
    name = name.strip()
    while name and name not in owner:
        name = name[: max(0, *(name.rfind(mark) for mark in "_. "))]
    return name or None
