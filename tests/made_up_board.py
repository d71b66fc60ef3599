"""A board whose costs are known: what a calibration of it should find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgenas.artifacts.latency_estimate import LatencyEstimate
from edgenas.network.graph import Network
from edgenas.network.readings import Reading, depends_on_input, read
from edgenas.spaces.cell import NAS_BENCH_201

COSTS_MS = {"Conv": 0.2, "AveragePool": 0.05, "Add": 0.02, "Gemm": 0.1, "Zero": 0.03}


def cells(count: int, seed: int = 0) -> list[Network]:
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        network = NAS_BENCH_201.network(NAS_BENCH_201.sample(rng))
        if depends_on_input(network):
            found.append(network)
    return found


def device(reading: Reading, noise: float = 0.01) -> Callable[[list[Network]], np.ndarray]:
    """An additive device that reads graphs so: 2 ms and a cost for each operation; a 3x3 convolution costs three of 1x1."""

    def times_ms(networks: list[Network]) -> np.ndarray:
        rng = np.random.default_rng(1)
        found = []
        for network in networks:
            total = 2.0
            for node in read(network, reading).nodes:
                large = node.op == "Conv" and node.attribute("kernel_shape") == (3, 3)
                total += COSTS_MS.get(node.op, 0.0) * (3 if large else 1) * bool(node.inputs)
            found.append(total * rng.normal(1.0, noise))
        return np.array(found)

    return times_ms


def relative_width(estimate: LatencyEstimate) -> float:
    return float((estimate.high_ms - estimate.low_ms) / estimate.latency_ms)
