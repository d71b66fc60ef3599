"""The seam *what*: a runtime's fusion rules, the files it takes, and its on-device part. One file per runtime, found by name."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgenas.artifacts.kernel import Precision
from edgenas.errors import InputError, TargetError
from edgenas.network.fuse import FusedKernel, FusionRules
from edgenas.network.graph import Network
from edgenas.targets.channel import Channel
from edgenas.targets.target import Target

if TYPE_CHECKING:
    import onnx

    from edgenas.onnxio.qdq import ActivationQuantization
    from edgenas.onnxio.write import Weights


class Runtime(Protocol):
    """What a module in this folder provides."""

    NAME: str
    PRECISIONS: tuple[Precision, ...]  # that it profiles and runs, from the widest to the narrowest
    AGENT_PART: Path
    AGENT_MODULES: tuple[Path, ...]  # what the part imports
    ANDROID_PART: Path | None  # the part for a device without Python: it runs on the host, and may import edgenas
    INFER_BATCH: int  # images at a time where accuracy is found out
    OPENING_LIMIT_S: float  # how long the device may take to load a model, or to build its engine

    def remedy(self, has_python: bool) -> str:
        """What to do where a target lacks the runtime."""
        ...

    def caveat(self, version: str) -> str:
        """What to know of this version before its figures are believed; empty if there is nothing."""
        ...

    def worth_searching(self, fast: Sequence[Precision]) -> tuple[Precision, ...]:
        """Of the precisions that are fast on a device, those that may give the fastest model in this runtime."""
        ...

    def fusion(self, precision: Precision, isa: Collection[str]) -> FusionRules: ...

    def fp32_model(self, network: Network, weights: Weights) -> onnx.ModelProto: ...

    def int8_model(
        self, network: Network, weights: Weights, ranges: Mapping[str, ActivationQuantization], weight_bits: int
    ) -> onnx.ModelProto: ...

    def calibration_cache(
        self, network: Network, ranges: Mapping[str, ActivationQuantization], version: str
    ) -> str | None:
        """A file from which that version of the runtime quantizes the FP32 model by itself, or None if it doesn't."""
        ...

    def attribute(self, nodes: Sequence[dict[str, Any]], kernels: tuple[FusedKernel, ...]) -> list[list[float] | None]:
        """Per kernel the durations (us) of the profiled nodes that ran it, or None if none did."""
        ...


def agent_on(target: Target, runtime: Runtime) -> Channel:
    """An agent with the runtime's part. Raises TargetError if there is none for such a target."""
    if target.has_python:
        return target.agent(runtime.AGENT_PART, runtime.AGENT_MODULES)
    if runtime.ANDROID_PART is None:
        raise TargetError(f"the runtime {runtime.NAME!r} isn't for Android, which {target.name} is")
    return target.agent(runtime.ANDROID_PART)


def names() -> list[str]:
    """Of all runtimes, sorted."""
    return sorted(path.name.removesuffix("_agent.py") for path in Path(__file__).parent.glob("*_agent.py"))


def load_runtime(name: str) -> Runtime:
    known = names()
    if name not in known:
        raise InputError(f"no runtime is called {name!r}", f"Runtimes: {', '.join(known)}.")
    module: Any = importlib.import_module(f"edgenas.runtimes.{name}")
    runtime: Runtime = module
    return runtime
