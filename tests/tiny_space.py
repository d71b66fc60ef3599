"""A search space small enough to profile in seconds, and what tests of latencies share about it."""

from __future__ import annotations

import numpy as np

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.latency.table import TableMeta
from edgenas.network.fuse import fuse
from edgenas.network.graph import Network
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces.mobile import MobileSpace, Stage
from edgenas.spaces.space import Subnet

RUNTIME = load_runtime("onnxruntime")
ISA = ("avx2", "avx512f")
SPACE = MobileSpace(
    channels=1,
    classes=3,
    resolutions_px=(12,),
    stem_widths=(8, 16),
    downsampling=((1, 2, 1), (2, 1, 2)),
    stages=(Stage(depths=(1, 2), widths=(8, 16)), Stage(depths=(1, 3), widths=(16, 24))),
)
QUIET_MS = 0.1
META = TableMeta("host", "onnxruntime", "1.2", "int8", 1, SPACE.id, QUIET_MS, {"cpu_name": "é", "load": None}, ("a",))


def kernels_of(network: Network, precision: Precision = "int8") -> tuple[Kernel, ...]:
    return tuple(fused.kernel for fused in fuse(network, RUNTIME.fusion(precision, ISA), precision))


def subnets(count: int, seed: int = 0) -> list[Subnet]:
    rng = np.random.default_rng(seed)
    return [SPACE.sample(rng) for _ in range(count)]
