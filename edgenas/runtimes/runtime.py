"""The seam *what*: a runtime's fusion rules, the files it takes, and its on-device part. One file per runtime, found by name."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgenas.artifacts.kernel import Precision
from edgenas.errors import InputError
from edgenas.network.fuse import FusedKernel, FusionRules
from edgenas.network.graph import Network

if TYPE_CHECKING:
    import onnx

    from edgenas.onnxio.qdq import ActivationQuantization
    from edgenas.onnxio.write import Weights


class Runtime(Protocol):
    """What a module in this folder provides."""

    NAME: str
    PRECISIONS: tuple[Precision, ...]  # that it profiles and runs
    AGENT_PART: Path

    def fusion(self, precision: Precision, isa: Collection[str]) -> FusionRules: ...

    def fp32_model(self, network: Network, weights: Weights) -> onnx.ModelProto: ...

    def int8_model(
        self, network: Network, weights: Weights, ranges: Mapping[str, ActivationQuantization], weight_bits: int
    ) -> onnx.ModelProto: ...

    def attribute(self, nodes: Sequence[dict[str, Any]], kernels: tuple[FusedKernel, ...]) -> list[list[float] | None]:
        """Per kernel the durations (us) of the profiled nodes that ran it, or None if none did."""
        ...


def load_runtime(name: str) -> Runtime:
    folder = Path(__file__).parent
    known = sorted(p.name.removesuffix("_agent.py") for p in folder.glob("*_agent.py"))
    if name not in known:
        raise InputError(f"no runtime is called {name!r}", f"Runtimes: {', '.join(known)}.")
    module: Any = importlib.import_module(f"edgenas.runtimes.{name}")
    runtime: Runtime = module
    return runtime
