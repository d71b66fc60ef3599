"""The option `--warm-start`: what a zero-cost proxy adds to the exploration, and what that was worth."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from edgenas.network import costs
from edgenas.pipeline.context import Build
from edgenas.pipeline.proxies import proxies_of
from edgenas.search.evaluations import Candidate
from edgenas.search.explore import LatencyFunction
from edgenas.search.warm_start import WarmStart, warm_start
from edgenas.spaces.space import Subnet
from edgenas.stats import mean_difference

COSTS = {"params": costs.params, "macs": costs.macs}  # known without a network being made


def drawn_warm(build: Build, latency: LatencyFunction, budget_ms: float, proxy: str) -> WarmStart:
    def ranking(subnets: Sequence[Subnet]) -> list[float]:
        if proxy in COSTS:
            return [COSTS[proxy](build.space.network(subnet)) for subnet in subnets]
        found = proxies_of(build, subnets)
        values = [found[subnet.id][proxy] for subnet in subnets]
        return [-math.inf if value is None else value for value in values]

    return warm_start(build.space, latency, budget_ms, build.effort.search.explored, build.request.seed, ranking)


def worth(proxy: str, ranked: Collection[str], explored: Sequence[Candidate]) -> dict[str, Any] | None:
    """By how much the explored whose ids are in `ranked` score better than the others, which were drawn at random: in accuracy, with a
    95 % interval. None where one of the two is empty."""
    chosen = [c.score for c in explored if c.subnet.id in ranked]
    random = [c.score for c in explored if c.subnet.id not in ranked]
    if not chosen or not random:
        return None
    difference, low, high = mean_difference(chosen, random)
    return {
        "proxy": proxy,
        "n_ranked": len(chosen),
        "n_random": len(random),
        "difference": difference,
        "low": low,
        "high": high,
    }
