"""Which ONNX operators TensorRT's parser takes, by version: the rows marked Y of its support matrix.

Source of each version: https://github.com/onnx/onnx-tensorrt/blob/VERSION-GA/docs/operators.md with VERSION as below, such as
https://github.com/onnx/onnx-tensorrt/blob/8.2-GA/docs/operators.md. No version took an operator back.
"""

from __future__ import annotations

from functools import lru_cache

from edgenas.errors import InputError

Version = tuple[int, int]
SOURCE = "https://github.com/onnx/onnx-tensorrt/blob/{}.{}-GA/docs/operators.md"

OPSETS: dict[Version, int] = {(8, 0): 13, (8, 2): 13, (8, 4): 17, (8, 5): 17, (8, 6): 17, (10, 0): 20, (10, 1): 20}
"""The newest opset, as the same pages say it."""

ADDED: dict[Version, str] = {
    (8, 0): """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip
        Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
        Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements Gemm GlobalAveragePool GlobalLpPool
        GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity If ImageScaler InstanceNormalization LRN LSTM
        LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg
        NonMaxSuppression Not Or PRelu Pad ParametricSoftplus Pow QuantizeLinear RNN RandomUniform RandomUniformLike
        Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare Relu Reshape Resize ReverseSequence ScaledTanh Scan Selu Shape Sigmoid Sin Sinh Size Slice
        Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
        Unsqueeze Upsample Where
    """,
    (8, 2): """
        Einsum GatherND IsNaN Round Scatter ScatterElements ScatterND Sign
    """,
    (8, 4): """
        HardSwish RandomNormal RandomNormalLike Reciprocal Shrink Xor
    """,
    (8, 5): """
        GridSample MeanVarianceNormalization Mod NonZero OneHot RoiAlign Trilu
    """,
    (8, 6): """
        GroupNormalization IsInf LayerNormalization
    """,
    (10, 0): """
        CastLike Gelu Hardmax Mish
    """,
    (10, 1): """
        DeformConv
    """,
}
"""What each version takes beyond the one before it."""


def table_for(version: str) -> Version:
    """The newest table that is not newer than `version` ("8.2", "8.6.1.6"). Raises InputError for what is no version, or too old."""
    parts = version.split(".")
    if not all(part.isdigit() for part in parts[:2]):
        raise InputError(
            f"TensorRT's version was expected as in 8.2.1, but it is {version!r}", "Say it in the device's file."
        )
    found = [known for known in ADDED if known <= (int(parts[0]), int(parts[1]) if len(parts) > 1 else 0)]
    if not found:
        raise InputError(
            f"TensorRT {version} is too old: 8.0 is the first that edgenas knows", "Update JetPack or TensorRT."
        )
    return max(found)


@lru_cache
def operators(table: Version) -> frozenset[str]:
    """What the parser of that version takes, of ONNX's own domain."""
    return frozenset(name for version, names in ADDED.items() if version <= table for name in names.split())
