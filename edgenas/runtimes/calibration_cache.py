"""TensorRT's calibration cache: scales by tensor name, with which TensorRT 10 and older build an INT8 engine from an FP32 ONNX
(implicit quantization, `trtexec --int8 --calib=FILE`), without images and without Q/DQ.

    TRT-8201-EntropyCalibration2
    input: 3caa54fc

The first line names the TensorRT version, and another version ignores the file; a value is a scale, max |x| / 127, as the bits of a
float32 in hexadecimal. Sources: ONNX Runtime's reader of the same table,
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/tensorrt/tensorrt_execution_provider_utils.h; NVIDIA
TensorRT Developer Guide 8.2, "Post-Training Quantization Using Calibration".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from edgenas.errors import InputError
from edgenas.onnxio.qdq import ActivationQuantization

ALGORITHM = "EntropyCalibration2"


def scales(ranges: Mapping[str, ActivationQuantization]) -> dict[str, float]:
    """Of every tensor, by its name in the FP32 ONNX that `onnxio.write.to_onnx` makes."""
    return {name: found.symmetric_scale for name, found in ranges.items()}


def cache_text(scales: Mapping[str, float], version: str) -> str:
    """What the file holds. `version` is TensorRT's, in full ("8.2.1"). Raises InputError for one that is not, for a scale that is not
    a positive float32, and for a name that a line can't hold."""
    lines = [f"TRT-{version_digits(version)}-{ALGORITHM}"]
    for name, scale in scales.items():
        if not name or "\n" in name or "\r" in name or name != name.strip():
            raise InputError(f"a calibration cache can't name the tensor {name!r}", "Rename the tensor.")
        lines.append(f"{name}: {_hex(name, scale)}")
    return "\n".join(lines) + "\n"


def read_cache(text: str) -> tuple[int, dict[str, float]]:
    """(TensorRT's version as digits, such as 8201; scale by tensor name). Raises InputError, naming the line that is wrong."""
    first, *lines = text.split("\n")
    header = re.fullmatch(r"TRT-(\d+)-\w+", first.strip())
    if header is None:
        raise InputError(
            f"a calibration cache starts with a line such as TRT-8201-{ALGORITHM}, but this one with {first!r}"
        )
    found = {}
    for number, line in enumerate(lines, 2):
        name, colon, digits = line.rstrip("\r").rpartition(": ")
        if colon and re.fullmatch("[0-9a-fA-F]{1,8}", digits):
            found[name] = float(struct.unpack(">f", int(digits, 16).to_bytes(4, "big"))[0])
        elif line.strip():
            raise InputError(f"line {number} of the calibration cache is no name with a hexadecimal float32: {line!r}")
    return int(header[1]), found


def version_digits(version: str) -> int:
    """As the cache's first line says it: 8.2.1 is 8201, 10.3.0 is 100300 (NV_TENSORRT_VERSION of NvInferVersion.h)."""
    numbers = [int(part) for part in version.split(".")[:3] if part.isdigit()]
    if len(numbers) != 3:
        raise InputError(f"TensorRT's version was expected in full, such as 8.2.1, but it is {version!r}")
    major, minor, patch = numbers
    if major < 10:
        return major * 1000 + minor * 100 + patch
    return major * 10000 + minor * 100 + patch


def _hex(name: str, scale: float) -> str:
    try:
        packed = struct.pack(">f", scale)
    except OverflowError:
        packed = b"\x7f\x80\x00\x00"
    kept = struct.unpack(">f", packed)[0]
    if not 0 < kept < float("inf"):
        raise InputError(
            f"the scale of the tensor {name!r} must be a positive float32, but it is {scale}", "Calibrate again."
        )
    return packed.hex()
