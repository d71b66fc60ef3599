"""The latency of a network in whichever of the device's fast precisions it runs fastest: what a search under a budget looks at.

INT8 is not always the faster one (small blocks, depthwise convolutions), and what is shipped is the faster within the accuracy limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenas.artifacts.kernel import Precision
from edgenas.artifacts.latency_estimate import LatencyEstimate
from edgenas.latency.calibration import CalibratedPredictor
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.space_predictor import over
from edgenas.network.graph import Network
from edgenas.spaces.space import SearchSpace


@dataclass(frozen=True)
class FastestPredictor:
    """One predictor a precision."""

    each: Mapping[Precision, LatencyPredictor | CalibratedPredictor]

    def latency_ms(self, network: Network) -> float:
        return min(predictor.latency_ms(network) for predictor in self.each.values())

    def precision(self, network: Network) -> Precision:
        """The one in which the network is predicted to be the fastest."""
        return min(self.each, key=lambda p: self.each[p].latency_ms(network))

    def estimate(self, network: Network) -> tuple[Precision, LatencyEstimate]:
        """The precision in which the network is predicted to be the fastest, and its latency there, with the interval."""
        estimates = {precision: predictor.estimate(network) for precision, predictor in self.each.items()}
        return min(estimates.items(), key=lambda item: item[1].latency_ms)

    def over(self, space: SearchSpace) -> Callable[[np.ndarray], np.ndarray]:
        """A function from genomes (N, genes) to (N,) ms."""
        tables = [over(space, predictor) for predictor in self.each.values()]
        return lambda genomes: np.min([table(genomes) for table in tables], axis=0)

    def corrected(self, network: Network, measured_ms: Mapping[Precision, float]) -> FastestPredictor:
        return FastestPredictor({p: each.corrected(network, measured_ms[p]) for p, each in self.each.items()})

    def key(self) -> dict[str, Any]:
        """What tells two of them apart that are of one machine."""
        return {p: each.correction for p, each in self.each.items()}
