"""A device as a person describes it in `devices/<id>.yaml`: what runs there, how precise, how much of everything.

Read by everything, made by `edgenas.device.load`. Every section names the public source of its figures; what is not
known is null. A field that differs from machine to machine says "detected" and is filled by `edgenas.device.resolve`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgenas.errors import EdgenasError, InputError

DETECTED: Literal["detected"] = "detected"
ID_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
Detected = Literal["detected"]
Precision = Literal["fp32", "fp16", "int8"]
Activation = Literal["relu", "relu6", "hard_swish"]
Slow = Literal["hard_swish", "squeeze_excite", "depthwise_7x7"]
SLOW: tuple[Slow, ...] = get_args(Slow)
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fact(_Frozen):
    """One thing to know about the device that no other field holds, for `edgenas devices ID` and the report."""

    what: Text
    value: Text
    source: Text


class PrecisionSpec(_Frozen):
    """`fast`: the hardware computes in it at least as fast as in FP32, so that it is worth searching and shipping."""

    fast: bool
    note: str = ""
    source: Text


class RuntimeSpec(_Frozen):
    """What one runtime on this device takes. The key in `DeviceSpec.runtimes` is its name, such as `onnxruntime`."""

    version: Text
    """The runtime's version, or "detected"."""
    precisions: dict[Precision, PrecisionSpec] = Field(min_length=1)
    qdq_flavour: Literal["ort", "trt"]
    """An INT8 file's layout: `ort` uint8 activations, integer bias; `trt` symmetric int8 activations, float bias."""
    int8_weight_bits: Literal[7, 8] | Detected
    """7 where a product of full-range int8 weights overflows the instruction's 16-bit sum."""
    opset_max: Count | None
    """The newest ONNX opset that it reads in full; null only where a predict-only device's runtime reads no ONNX."""
    ir_version_max: Count | None
    """The newest ONNX IR version that it reads, at least the one that came with `opset_max`; null as there."""
    provider: Literal["cpu", "xnnpack"] = "cpu"
    """What in ONNX Runtime computes: its own CPU kernels, or XNNPACK's where the build on the device has them."""
    canonical_form: Literal["as_written", "reachable", "live"]
    """What is left of a graph when it runs: `as_written` all of it; `reachable` what leads to the output; `live` that,
    less operations that are only fed zeros."""
    source: Text


class CpuSpec(_Frozen):
    """`cores` counts what the system schedules on; `isa` holds lower-case flags as Linux names them."""

    name: Text
    arch: Literal["x86_64", "aarch64"] | Detected
    cores: Count | Detected
    isa: tuple[str, ...] | Detected
    clock_mhz: Count | None = None
    source: Text


class GpuSpec(_Frozen):
    """`compute_capability` is CUDA's, as text ("5.3")."""

    name: Text
    cores: Count
    compute_capability: Text
    clock_mhz: Count | None = None
    source: Text


class Peaks(_Frozen):
    """Published peaks, for a roofline. GFLOPS count a multiply and an add as two; GB/s: 10^9 bytes of main memory."""

    gflops_fp32: Rate | None = None
    gflops_fp16: Rate | None = None
    gb_per_s: Rate | None = None
    source: Text


class Rules(_Frozen):
    """What a search space may offer on this device, whichever of its runtimes runs the network."""

    int8_channel_multiple: Count | Detected | None
    """INT8 kernels work on blocks of this many output channels: other counts cost as much as the next multiple."""
    activations: tuple[Activation, ...] = Field(min_length=1)
    squeeze_excite: bool
    """Whether squeeze-and-excitation blocks run there at all; whether they pay is for the latency table to say."""
    slow: tuple[Slow, ...] | Detected = ()
    """What runs there but takes more time than it is worth, by a source: a search leaves it out. What isn't named is searched where it
    runs and can be measured, and the latency table says whether it pays."""
    source: Text


class DeviceSpec(_Frozen):
    """One device. Sizes are MiB, clocks MHz; see the sections for their units."""

    id: Annotated[str, Field(pattern=ID_PATTERN)]
    name: Text
    summary: Text
    target: Text | None = None
    """Where it runs unless the user says otherwise, such as "local"; null where only the user can say."""
    predict_only: Text | None = None
    """Why no model can be run on it from here, as one clause such as "its runtime only takes compiled TFLite files";
    then it can be predicted for, but not measured. Null for every device that can be measured."""
    default_runtime: Text
    runtimes: dict[str, RuntimeSpec] = Field(min_length=1)
    cpu: CpuSpec
    gpu: GpuSpec | None = None
    threads: Count
    """How many threads a measurement uses unless the user says otherwise."""
    ram_mib: Count | Detected | None
    """Main memory that system, GPU and models share."""
    peaks: Peaks
    rules: Rules
    facts: tuple[Fact, ...] = ()

    @model_validator(mode="after")
    def _default_runtime_exists(self) -> DeviceSpec:
        if self.default_runtime not in self.runtimes:
            raise ValueError(f"default_runtime must be one of {sorted(self.runtimes)}, but is {self.default_runtime!r}")
        return self

    @model_validator(mode="after")
    def _measured_devices_read_onnx(self) -> DeviceSpec:
        for name, runtime in self.runtimes.items():
            if self.predict_only is None and (runtime.opset_max is None or runtime.ir_version_max is None):
                raise ValueError(
                    f"runtimes.{name} must say opset_max and ir_version_max, or the device must say predict_only"
                )
        return self

    def refuse_if_predict_only(self) -> None:
        """Raises InputError for a device that nothing can be run on: call it before anything is measured there."""
        if self.predict_only is not None:
            raise InputError(
                f"nothing can be measured on device {self.id!r}: {self.predict_only}",
                hint=f"Predict for it instead, from networks that were timed on it: edgenas calibrate --device {self.id}.",
            )

    def runtime(self, name: str = "") -> RuntimeSpec:
        """The named runtime, or the default one. Raises InputError for one that the device does not have."""
        found = self.runtimes.get(name or self.default_runtime)
        if found is None:
            raise InputError(
                f"device {self.id!r} has no runtime {name!r}",
                hint=f"Its runtimes: {', '.join(self.runtimes)}.",
            )
        return found

    def fast_precisions(self, runtime: str = "") -> tuple[Precision, ...]:
        """The precisions worth searching in that runtime (the default one if none is named), in the file's order."""
        return tuple(name for name, precision in self.runtime(runtime).precisions.items() if precision.fast)

    def weight_bits(self, runtime: str = "") -> Literal[7, 8]:
        """How many bits INT8 weights may use. Raises EdgenasError while the device is not resolved."""
        bits = self.runtime(runtime).int8_weight_bits
        if bits == DETECTED:
            raise EdgenasError(
                f"the INT8 weight bits of device {self.id!r} are asked for before the device was probed",
                hint="Call edgenas.device.resolve with a probe of the device first.",
            )
        return bits

    @property
    def detected_fields(self) -> tuple[str, ...]:
        """Dotted names of the fields that still say "detected"; empty once the device is resolved."""
        return tuple(_detected(self.model_dump(), ""))

    @property
    def is_detected(self) -> bool:
        """Whether some field still has to be detected on the machine itself."""
        return bool(self.detected_fields)


def _detected(value: Any, path: str) -> Iterator[str]:
    if value == DETECTED:
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _detected(inner, f"{path}.{key}" if path else key)
