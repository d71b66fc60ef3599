"""A Kernel: one operation as the device runs it after fusion. It is the key of every latency table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

from edgenas.errors import InputError

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
RECURRENT = ("LSTM", "GRU", "RNN")
OPTIONAL = {"weights": "0", "layout": ""}  # columns that a table may lack, and what then holds
BYTES_PER_VALUE: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True, slots=True, order=True)
class Kernel:
    """Shapes are (C, H, W) of batch 1 (or (features,)); pads are top, left, bottom, right; zero where an operation has none."""

    op: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel_size_hw: tuple[int, int] = (0, 0)
    stride_hw: tuple[int, int] = (0, 0)
    dilation_hw: tuple[int, int] = (0, 0)
    pads: tuple[int, ...] = ()
    groups: int = 1
    fused: tuple[str, ...] = ()
    weights: int = 0  # of a recurrent layer, whose shapes don't tell them; no other operation says them here
    layout: str = ""  # "blocked": channels lie in blocks (ONNX Runtime's NCHWc); empty: the plain one
    precision: Precision = "fp32"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a convolution, a matrix product or a recurrent layer (FLOPs = 2 x MACs); others count none."""
        if self.op in ("Gemm", "MatMul"):
            return prod(self.out_shape) * self.in_shape[-1]
        if self.op in RECURRENT:
            return self.weights * self.in_shape[0]
        if self.op in ("Conv", "ConvTranspose"):
            anchor, other = self.out_shape, self.in_shape
            if self.op == "ConvTranspose":
                anchor, other = other, anchor
            return prod(anchor) * other[0] // self.groups * prod(self.kernel_size_hw)
        return 0

    @property
    def params(self) -> int:
        """Weights and biases."""
        if self.op in RECURRENT:
            return self.weights
        if self.op in ("Gemm", "MatMul"):
            return (self.in_shape[-1] + 1) * self.out_shape[-1]
        if self.op in ("Conv", "ConvTranspose"):
            weights = self.in_shape[0] * self.out_shape[0] // self.groups * prod(self.kernel_size_hw)
            return weights + self.out_shape[0]
        return 0

    @property
    def bytes_moved(self) -> int:
        """What is read and written at least: inputs (an added tensor too), weights and the output, each once."""
        added = prod(self.out_shape) * ("Add" in self.fused or self.op in ("Add", "Mul", "Sub", "Div"))
        return (prod(self.in_shape) + added + self.params + prod(self.out_shape)) * BYTES_PER_VALUE[self.precision]

    def to_row(self) -> dict[str, str]:
        """One CSV row: tuples as `16x28x28`, names joined with `+`."""
        return {key: _text(value) for key, value in asdict(self).items()}

    @staticmethod
    def from_row(row: dict[str, str]) -> Kernel:
        """Raises InputError naming the column that can't be read."""
        values: dict[str, Any] = {}
        for key, read in _READERS.items():
            try:
                values[key] = read(row.get(key, OPTIONAL[key]) if key in OPTIONAL else row[key])
            except (KeyError, ValueError) as error:
                raise InputError(f"the kernel column {key!r} holds {row.get(key)!r}, which can't be read") from error
        return Kernel(**values)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(value) if value and isinstance(value[0], str) else "x".join(map(str, value))
    return str(value)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("x")) if text else ()


def _precision(text: str) -> str:
    if text not in PRECISIONS:
        raise ValueError(text)
    return text


_READERS: dict[str, Any] = {
    "op": str,
    "in_shape": _integers,
    "out_shape": _integers,
    "kernel_size_hw": _integers,
    "stride_hw": _integers,
    "dilation_hw": _integers,
    "pads": _integers,
    "groups": int,
    "fused": lambda text: tuple(text.split("+")) if text else (),
    "weights": int,
    "layout": str,
    "precision": _precision,
}
