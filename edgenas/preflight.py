"""What would stop a model on a device, found in seconds from the file and the device's description, before an hour of search.

Each check gives Findings and changes nothing; `edgenas.onnxio.rewrite` mends what is "rewritten by edgenas".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgenas.artifacts.device_spec import Precision, RuntimeSpec
from edgenas.artifacts.finding import Finding
from edgenas.errors import InputError
from edgenas.onnxio.rewrite import (
    ONNX,
    REWRITABLE,
    inlined,
    least_ir_version,
    lowering_problems,
    opset_of,
    rewritten,
)
from edgenas.onnxio.trt_legality import QDQ, int8_constants, violations
from edgenas.runtimes.tensorrt_operators import SOURCE, operators, table_for

if TYPE_CHECKING:
    import onnx

REWRITTEN = "rewritten by edgenas"
ORT_DOMAINS = ("ai.onnx.ml", "com.microsoft")
FUNCTIONS = (9, 0)  # https://github.com/onnx/onnx-tensorrt/blob/10.1-GA/docs/Changelog.md
CROWDED = 0.5  # of the memory: what else runs there is not known


def check_model(
    model: onnx.ModelProto, spec: RuntimeSpec, runtime: str, version: str, precision: Precision
) -> list[Finding]:
    """Of a model for one of a device's runtimes: `runtime` is its name, `version` what is installed ("8.2.1"; `spec.version` unless a
    probe says more). Weights are not read, so that the file's external data need not be loaded."""
    flat = inlined(model)
    unsupported = _unsupported(flat, runtime, version)
    return [
        *_check_functions(model, runtime, version),
        *_check_operators(unsupported, runtime, version),
        *_check_opset(flat, spec, runtime, unsupported),
        *_check_ir_version(model, spec, runtime),
        *_check_precision(flat, spec, runtime, version, precision),
    ]


def mended(
    model: onnx.ModelProto, spec: RuntimeSpec, runtime: str, version: str, precision: Precision
) -> tuple[onnx.ModelProto, list[Finding]]:
    """The model with everything rewritten that can be, and the warnings that are left. Raises InputError for the first error, and says
    how many more there are."""
    found = check_model(model, spec, runtime, version, precision)
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more like this)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0].what}{more}", errors[0].remedy)
    if any(finding.remedy == REWRITTEN for finding in found):
        names = {name for domain, name in _unsupported(inlined(model), runtime, version) if domain in ONNX}
        model, _ = rewritten(model, names, spec.opset_max)
    return model, found


def check_memory(peak_mib: float, weights_mib: float, ram_mib: float | None) -> list[Finding]:
    """Activations at their peak and weights against all the memory that the device has (None: not known, nothing is found)."""
    needed = peak_mib + weights_mib
    if ram_mib is None or needed <= CROWDED * ram_mib:
        return []
    what = (
        f"the model needs {needed:.0f} MiB ({peak_mib:.0f} activations, {weights_mib:.0f} weights) of {ram_mib:.0f} MiB"
    )
    if needed > ram_mib:
        return [Finding("error", what, "Lower the input resolution, or set --peak-memory-mib and --size-mib.")]
    return [Finding("warning", what, "Close other programs on the device, or set --peak-memory-mib.")]


def check_storage(bytes_needed: int, bytes_free: int) -> list[Finding]:
    """What is copied to the device and built there, against what its disk has left."""
    if bytes_needed <= bytes_free:
        return []
    what = f"{bytes_needed / 2**20:.1f} MiB are needed on the device, and {bytes_free / 2**20:.1f} MiB are free"
    return [Finding("error", what, "Delete something on the device, or name a folder on a larger disk.")]


def _unsupported(model: onnx.ModelProto, runtime: str, version: str) -> Counter[tuple[str, str]]:
    """(domain, operator) -> how many nodes, of what the runtime does not take. ONNX Runtime takes all of ONNX."""
    found = Counter((node.domain, node.op_type) for node in model.graph.node)
    if runtime == "tensorrt":
        known = operators(table_for(version))
        return Counter({key: n for key, n in found.items() if key[0] not in ONNX or key[1] not in known})
    return Counter({key: n for key, n in found.items() if key[0] not in (*ONNX, *ORT_DOMAINS)})


def _check_functions(model: onnx.ModelProto, runtime: str, version: str) -> Iterator[Finding]:
    if model.functions and runtime == "tensorrt" and table_for(version) < FUNCTIONS:
        names = ", ".join(sorted({each.name for each in model.functions}))
        yield Finding("warning", f"tensorrt {version} takes no functions that a model brings along: {names}", REWRITTEN)


def _check_operators(unsupported: Counter[tuple[str, str]], runtime: str, version: str) -> Iterator[Finding]:
    for (domain, name), count in sorted(unsupported.items()):
        nodes = f"{count} {name} node{'s' if count > 1 else ''}"
        if domain not in ONNX:
            yield Finding(
                "error",
                f"{runtime} does not know the operator {domain}.{name}",
                f"Export the model with ONNX's own operators ({nodes} of it).",
            )
            continue
        what = f"{runtime} {version} has no {name}, and the model has {nodes}"
        if name in REWRITABLE:
            yield Finding("warning", what, REWRITTEN)
        else:
            page = SOURCE.format(*table_for(version))
            yield Finding("error", what, f"Replace it by what {page} lists, or choose another runtime with --runtime.")


def _check_opset(
    model: onnx.ModelProto, spec: RuntimeSpec, runtime: str, unsupported: Counter[tuple[str, str]]
) -> Iterator[Finding]:
    opset = opset_of(model)
    if spec.opset_max is None or opset <= spec.opset_max:
        return
    what = f"the model is of opset {opset}, and {runtime} on this device reads up to {spec.opset_max}"
    names = {name for domain, name in unsupported if domain in ONNX}
    problems = lowering_problems(model, spec.opset_max, names)
    if problems:
        yield Finding("error", f"{what}: {'; '.join(problems)}", f"Export the model at opset {spec.opset_max}.")
    else:
        yield Finding("warning", what, REWRITTEN)


def _check_ir_version(model: onnx.ModelProto, spec: RuntimeSpec, runtime: str) -> Iterator[Finding]:
    if spec.opset_max is None or spec.ir_version_max is None or model.ir_version <= spec.ir_version_max:
        return
    what = (
        f"the file is of IR version {model.ir_version}, and {runtime} on this device reads up to {spec.ir_version_max}"
    )
    least = least_ir_version(min(opset_of(model), spec.opset_max))
    if least <= spec.ir_version_max:
        yield Finding("warning", what, REWRITTEN)
    else:
        yield Finding("error", what, f"Export the model at opset {spec.opset_max} or older.")


def _check_precision(
    model: onnx.ModelProto, spec: RuntimeSpec, runtime: str, version: str, precision: Precision
) -> Iterator[Finding]:
    found = spec.precisions.get(precision)
    quantized = any(node.op_type in QDQ for node in model.graph.node)
    fast = [name for name, each in spec.precisions.items() if each.fast]
    instead = f"Choose {' or '.join(fast)} with --precision."
    if found is None:
        yield Finding("error", f"{runtime} on this device does not run {precision}", instead)
    elif quantized and runtime == "tensorrt" and not ("int8" in spec.precisions and spec.precisions["int8"].fast):
        what = "TensorRT refuses a model with Q/DQ nodes on hardware without INT8, which this device is"
        yield Finding("error", what, f"{instead} The calibration cache builds an INT8 engine without Q/DQ nodes.")
    elif not found.fast:
        yield Finding("warning", f"{precision} is slow in {runtime} on this device: {found.note}".strip(": "), instead)
    if quantized and spec.qdq_flavour == "trt":
        yield from (Finding("error", each.what, each.remedy) for each in violations(model))
        constants = int8_constants(model)
        if constants and runtime == "tensorrt" and table_for(version) < (10, 0):
            what = f"TensorRT {version} refuses int8 constants, and {constants[0]!r} of {len(constants)} dequantizers reads one"
            yield Finding(
                "error", what, "Write the model in edgenas's `trt` QDQ flavour, which leaves weights in float."
            )
