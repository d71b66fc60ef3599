"""Latencies of many subnets of one space at once: sums over segments, looked up by code; of a calibration, network by network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgenas.latency.calibration import CalibratedPredictor
from edgenas.latency.predictor import LatencyPredictor, kernel_terms
from edgenas.network.fuse import fuse
from edgenas.spaces.space import SearchSpace

TERMS = 4


def over(space: SearchSpace, predictor: LatencyPredictor | CalibratedPredictor) -> Callable[[np.ndarray], np.ndarray]:
    """A function from genomes (N, genes) to (N,) predicted ms."""
    if isinstance(predictor, LatencyPredictor):
        return SpacePredictor(space, predictor).latency_ms
    return WholeNetworks(space, predictor).latency_ms


class WholeNetworks:
    """A calibration knows no parts that could be summed: every new subnet costs about a millisecond, once."""

    def __init__(self, space: SearchSpace, predictor: CalibratedPredictor) -> None:
        self.space, self.predictor = space, predictor
        self._known_ms: dict[tuple[int, ...], float] = {}

    def latency_ms(self, genomes: np.ndarray) -> np.ndarray:
        """(N, genes) integers -> (N,) predicted ms."""
        wanted = [self.space.subnet(tuple(map(int, row))).genome for row in genomes]
        new = list({genome for genome in wanted if genome not in self._known_ms})
        networks = [self.space.network(self.space.subnet(genome)) for genome in sorted(new)]
        for genome, estimate in zip(sorted(new), self.predictor.estimates(networks) if new else [], strict=True):
            self._known_ms[genome] = estimate.latency_ms
        return np.array([self._known_ms[genome] for genome in wanted])


@dataclass
class _Column:
    """Codes of one segment, sorted, with the sums of their kernels' terms."""

    codes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    values: np.ndarray = field(default_factory=lambda: np.empty((0, TERMS)))


class SpacePredictor:
    """A segment is worked out once, when a batch first holds it; from then on a subnet costs a few look-ups."""

    def __init__(self, space: SearchSpace, predictor: LatencyPredictor) -> None:
        self.space, self.predictor = space, predictor
        self._columns: list[_Column] = []

    def latency_ms(self, genomes: np.ndarray) -> np.ndarray:
        """(N, genes) integers -> (N,) predicted ms."""
        codes = self.space.segments(genomes)
        if not self._columns:
            self._columns = [_Column() for _ in range(codes.shape[1])]
        self._fill(genomes, codes)
        total = np.zeros((len(genomes), TERMS))
        for column, code in zip(self._columns, codes.T, strict=True):
            total += column.values[np.searchsorted(column.codes, code)]
        return self.predictor.affine.apply(total)

    def _fill(self, genomes: np.ndarray, codes: np.ndarray) -> None:
        missing: dict[int, list[int]] = {}
        for segment, column in enumerate(self._columns):
            unique, first = np.unique(codes[:, segment], return_index=True)
            for row in first[~np.isin(unique, column.codes)]:
                missing.setdefault(int(row), []).append(segment)
        new: dict[int, dict[int, np.ndarray]] = {}
        for row, segments in missing.items():
            per_segment = self._segment_sums(tuple(int(g) for g in genomes[row]))
            for segment in segments:
                new.setdefault(segment, {})[int(codes[row, segment])] = per_segment[segment]
        for segment, found in new.items():
            column = self._columns[segment]
            all_codes = np.concatenate([column.codes, np.array(list(found), np.int64)])
            all_values = np.concatenate([column.values, np.array(list(found.values()))])
            order = np.argsort(all_codes)
            column.codes, column.values = all_codes[order], all_values[order]

    def _segment_sums(self, genome: tuple[int, ...]) -> np.ndarray:
        network = self.space.network(self.space.subnet(genome))
        owner = {name: i for i, names in enumerate(self.space.segment_members(network)) for name in names}
        fused = fuse(network, self.predictor.rules, self.predictor.precision)
        times = self.predictor.kernels.times_ms([f.kernel for f in fused])
        sums = np.zeros((max(owner.values()) + 1, TERMS))
        segment = len(sums) - 1
        for f, ms in reversed(list(zip(fused, times, strict=True))):
            segment = (
                owner[f.members[0]] if f.members else segment
            )  # a move belongs to what reads it, the kernel after it
            sums[segment] += kernel_terms(f.kernel, ms)
        return sums
