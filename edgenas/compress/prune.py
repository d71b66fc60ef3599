"""Structured pruning down the device's latency staircase: a channel is removed only where the table says that it saves time.

Convolutions run in blocks of channels, so latency falls in steps. Of all channel groups and step edges, the one that saves the most
milliseconds per importance lost goes first (the greedy of NetAdapt, Yang et al., ECCV 2018, with the step edges read from
the predictor). Importance is the squared norm of a channel's folded filters (Li et al., ICLR 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from edgenas.nets.channel_selection import with_channels
from edgenas.nets.module import NetworkModule
from edgenas.network.channels import channel_groups, with_widths
from edgenas.network.graph import Network

MULTIPLE = 4
MIN_CHANNELS = 8
MIN_SAVING = 0.01  # of the network's latency, by one step: less than the predictor can tell apart
LatencyOf = Callable[[Network], float]


@dataclass(frozen=True)
class PruningPlan:
    """`widths`: convolution name -> channels kept. Predicted milliseconds before and after."""

    widths: Mapping[str, int]
    channels_before: int
    channels_after: int
    before_ms: float
    after_ms: float


def plan_pruning(module: NetworkModule, latency_of: LatencyOf, importance_limit: float) -> PruningPlan:
    """Take steps until none saves `MIN_SAVING`, or the importance lost in any group would pass `importance_limit` (0..1)."""
    network = module.network
    groups = channel_groups(network)
    importance = [_importance(module, group) for group in groups]
    full = [network.by_name[group[0]].shape[1] for group in groups]
    kept = list(full)
    before = now = latency_of(network)

    def ms_at(index: int, count: int) -> float:
        counts = [*kept[:index], count, *kept[index + 1 :]]
        return latency_of(with_widths(network, _widths(groups, counts)))

    while True:
        best: tuple[float, int, int, float] | None = None
        for index, scores in enumerate(importance):
            for count in _edges(lambda c, i=index: ms_at(i, c), kept[index], now):  # type: ignore[misc]
                lost = float(scores[count:].sum() / scores.sum())
                saved = now - ms_at(index, count)
                if saved < MIN_SAVING * before or lost > importance_limit:
                    continue
                gain = saved / (lost - float(scores[kept[index] :].sum() / scores.sum()) + 1e-6)
                if best is None or gain > best[0]:
                    best = (gain, index, count, now - saved)
        if best is None:
            break
        _, index, kept[index], now = best
    return PruningPlan(_widths(groups, kept), sum(full), sum(kept), before, now)


def prune(module: NetworkModule, widths: Mapping[str, int]) -> NetworkModule:
    """The network with the most important channels of each group, weights taken over; its BatchNorm statistics too."""
    network = module.network
    indices: dict[str, torch.Tensor] = {}
    for group in channel_groups(network):
        scores = np.argsort(-_channel_scores(module, group), kind="stable")[: widths[group[0]]]
        for name in group:
            indices[name] = torch.from_numpy(np.sort(scores))
    return with_channels(module, indices)


def _edges(ms_at: Callable[[int], float], full: int, now: float) -> list[int]:
    """Channel counts below `full` that end a step of the staircase: one multiple less would not have been needed for the time."""
    counts = list(range(full - MULTIPLE, MIN_CHANNELS - 1, -MULTIPLE))
    times = [ms_at(count) for count in counts]
    edges = []
    lowest = now
    for count, ms in zip(counts, times, strict=True):
        if ms < lowest * (1 - MIN_SAVING / 2):
            edges.append(count)
            lowest = ms
    return edges


def _importance(module: NetworkModule, group: tuple[str, ...]) -> np.ndarray:
    """Scores of the group's channels, most important first."""
    return np.sort(_channel_scores(module, group))[::-1]


def _channel_scores(module: NetworkModule, group: tuple[str, ...]) -> np.ndarray:
    total = np.zeros(module.network.by_name[group[0]].shape[1])
    for name in group:
        weight, _ = module.conv(name).folded()
        total += (weight.reshape(len(weight), -1) ** 2).sum(axis=1)
    return total


def _widths(groups: tuple[tuple[str, ...], ...], counts: list[int]) -> dict[str, int]:
    return {name: count for group, count in zip(groups, counts, strict=True) for name in group}
