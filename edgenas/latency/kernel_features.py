"""What a regression looks at of a Kernel: the family of kernels that it is compared with, features on a logarithmic scale, and the
work that a roofline counts.

The features that are not plain sizes follow how inference runtimes cut their work: CPU kernels in blocks of 8 or 16 channels
(ONNX Runtime's NCHWc), phone GPUs in slices of 4 channels with a staircase in the number of outputs (nn-Meter, Zhang et al., MobiSys
2021, finds both kinds of steps), and Winograd's transform for large 3x3 convolutions (the rule of TensorFlow Lite's GPU delegate: at
least 16 slices on both sides and 32 tiles of 4x4).
"""

from __future__ import annotations

from math import log, prod

from edgenas.artifacts.kernel import BYTES_PER_VALUE, Kernel

POOLS = ("MaxPool", "AveragePool", "LpPool")
ELEMENTWISE = (
    *("Add", "Mul", "Sub", "Div", "Pow", "Min", "Max", "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid"),
    *("HardSwish", "Tanh", "Elu", "Gelu", "Erf", "Exp", "Sqrt", "QLinearAdd", "QLinearMul", "QuantizeLinear"),
    "DequantizeLinear",
)
MOVEMENT = (
    *("Concat", "Split", "Slice", "Transpose", "ReorderInput", "ReorderOutput", "Resize", "Upsample", "Pad", "Gather"),
    *("DepthToSpace", "SpaceToDepth", "Expand", "Tile", "Cast"),
)
REDUCTIONS = (
    *("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax", "Softmax", "LogSoftmax", "LRN"),
    *("LayerNormalization", "InstanceNormalization", "GroupNormalization"),
)
HEAVY_ACTIVATIONS = frozenset({"HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Elu", "Gelu", "Erf", "Exp", "Softmax"})
CACHE_MIB = 32.0  # moved in a run; from about there on nothing is left in the last cache of common CPUs
WINOGRAD_CHANNELS = 61  # 16 slices of 4
WINOGRAD_TILES = 32

# name of a feature -> the change of it that halves, roughly, what one kernel says of another: the median of what fits found on tables
# of an x86 CPU (ONNX Runtime, FP32 and INT8) and of three phone GPUs (mobile-ml-benchmark, MIT). A fit starts from them and departs
# as far as its data ask.
LENGTHS: dict[str, float] = {
    "channels in of a group": 2.1,
    "channels out": 3.4,
    "positions": 4.5,
    "kernel area": 1.3,
    "stride": 2.5,
    "padding to 16 channels in": 0.65,
    "padding to 16 channels out": 0.7,
    "padding to 4 channels in": 0.4,
    "padding to 8 channels out": 0.5,
    "padding to 4 columns": 0.55,
    "adds": 4.0,
    "heavy activation": 4.0,
    "fused": 8.0,
    "groups": 6.5,
    "dilation": 1.5,
    "winograd": 4.0,
    "pads": 8.0,
    "uneven pads": 4.0,
    "blocked layout": 2.0,
    "MACs": 6.2,
    "bytes": 7.5,
    "values out": 5.8,
    "values in": 7.7,
    "cold weights": 1.5,
    **dict.fromkeys(("operation is the first", "operation is the second", "operation is the third"), 2.0),
}
STAIRCASE = list(LENGTHS).index("values out")  # a GPU's work items


def family(kernel: Kernel) -> str:
    """Kernels of one family scale alike. An operation that belongs to none is a family alone."""
    if kernel.op == "Conv":
        if kernel.groups > 1:
            is_depthwise = kernel.groups == kernel.in_shape[0] == kernel.out_shape[0]
            return "depthwise convolution" if is_depthwise else "convolution"
        if _positions(kernel) == 1:
            return "matrix product"
        return "1x1 convolution" if prod(kernel.kernel_size_hw) == 1 else "convolution"
    if kernel.op in ("Gemm", "MatMul"):
        return "matrix product"
    for name, ops in (("pool", POOLS), ("elementwise", ELEMENTWISE), ("movement", MOVEMENT), ("reduction", REDUCTIONS)):
        if kernel.op in ops:
            return name
    return kernel.op


def features(k: Kernel, network_mib: float) -> list[float]:
    """One number for each name in LENGTHS, in that order. Sizes are natural logarithms. `network_mib` is what one run of the whole
    network moves: the more, the less of a kernel's weights is still in a cache when it runs again."""
    c_in, c_out = _channels(k.in_shape), _channels(k.out_shape)
    width = k.out_shape[-1] if len(k.out_shape) > 1 else 1
    return [
        log(max(c_in // max(k.groups, 1), 1)),
        log(c_out),
        log(_positions(k)),
        log(max(prod(k.kernel_size_hw), 1)),
        log(max(prod(k.stride_hw), 1)),
        _padding(c_in, 16),
        _padding(c_out, 16),
        _padding(c_in, 4),
        _padding(c_out, 8),
        _padding(width, 4),
        float("Add" in k.fused),
        float(any(op in HEAVY_ACTIVATIONS for op in k.fused)),
        float(len(k.fused)),
        log(max(k.groups, 1)),
        log(max(prod(k.dilation_hw), 1)),
        float(_suits_winograd(k)),
        float(any(k.pads)),
        float(k.pads[: len(k.pads) // 2] != k.pads[len(k.pads) // 2 :]),
        float(k.layout != ""),
        log(max(k.macs, 1)),
        log(max(k.bytes_moved, 1)),
        log(max(prod(k.out_shape), 1)),
        log(max(prod(k.in_shape), 1)),
        log(1 + network_mib) * weight_share(k),
        *_operation(k),
    ]


def weight_share(k: Kernel) -> float:
    """Of the bytes that a kernel moves."""
    return k.params * BYTES_PER_VALUE[k.precision] / max(k.bytes_moved, 1)


def work(k: Kernel, network_mib: float) -> list[float]:
    """What a kernel of its family pays for, each >= 0 and growing with its sizes: the launch, MACs as blocks compute them (direct,
    and where Winograd's transform may save some), bytes read, written and of weights (those that come from memory once more), and
    what is done at each position."""
    size = BYTES_PER_VALUE[k.precision]
    values_in, values_out = prod(k.in_shape) * size, prod(k.out_shape) * size
    macs = float(k.macs)
    if k.op == "Conv" and k.groups == 1:
        macs = _up(k.out_shape[0], 16) * _up(k.in_shape[0], 4) * prod(k.kernel_size_hw) * float(_positions(k))
    winograd = _suits_winograd(k)
    return [
        1.0,
        macs,
        0.0 if winograd else macs,
        float(values_in),
        float(values_out * (1 + ("Add" in k.fused))),
        float(k.params * size),
        float(k.params * size) * min(1.0, network_mib / CACHE_MIB),
        float(_positions(k) if k.op == "Conv" else prod(k.kernel_size_hw) * values_out),
        float(_one_by_one(k)),
    ]


def plain_work(k: Kernel) -> list[float]:
    """What any kernel of any kind pays for: the launch, MACs, bytes."""
    return [1.0, float(k.macs), float(k.bytes_moved)]


def _operation(k: Kernel) -> list[float]:
    """Three digits that tell the operations of a family apart; nothing where a family has one."""
    for ops in (POOLS, ELEMENTWISE, MOVEMENT, REDUCTIONS, ("Conv", "Gemm", "MatMul")):
        if k.op in ops:
            code = ops.index(k.op)
            return [float(code % 3), float(code // 3 % 3), float(code // 9)]
    return [0.0, 0.0, 0.0]


def _channels(shape: tuple[int, ...]) -> int:
    return max(shape[0], 1) if shape else 1


def _positions(k: Kernel) -> int:
    return max(prod(k.out_shape[1:]), 1)


def _one_by_one(k: Kernel) -> int:
    """Steps that one output value takes: a parallel device with fewer outputs than lanes is as slow as one of them."""
    if k.macs and family(k) != "depthwise convolution":
        return k.macs // max(prod(k.out_shape), 1)
    if any(k.kernel_size_hw) and k.op != "Conv":
        return prod(k.kernel_size_hw)
    return prod(k.in_shape[1:]) if k.op in REDUCTIONS else 0


def _up(value: int, block: int) -> int:
    return -(-value // block) * block


def _padding(value: int, block: int) -> float:
    """How much longer a dimension gets when it is filled up to whole blocks: the logarithm of a ratio."""
    return log(_up(max(value, 1), block) / max(value, 1))


def _suits_winograd(k: Kernel) -> bool:
    if k.op != "Conv" or k.groups != 1 or k.kernel_size_hw != (3, 3) or k.stride_hw != (1, 1):
        return False
    tiles = prod(-(-side // 4) for side in k.out_shape[1:])
    return (
        min(k.in_shape[0], k.out_shape[0]) >= WINOGRAD_CHANNELS
        and tiles >= WINOGRAD_TILES
        and k.dilation_hw in ((1, 1), (0, 0))
    )
